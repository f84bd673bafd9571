"""Quoting: texts of others never become control tokens, and come back exactly."""

import random
from itertools import product
from pathlib import Path

import pytest
import tokenizers
from tokenizers import AddedToken

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.control_tokens import MARK, REPLY_TAGS, ControlToken, ControlTokens
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer
from scripts.support.injection import FORGED_TURN, PLACES, TOKENS, forged

TEMPLATES = {
    file.stem: ChatTemplate(file.read_text())
    for file in sorted((Path(__file__).parents[1] / "templates").glob("*.jinja"))
}
TAGS = ["<|im_start|>", "<|im_end|>", "<think>", "</think>", "[INST]", "<a>", "<a>>"]
NAMES = [*TAGS, "word", "a<b"]
CONTROL = ControlTokens([ControlToken(name, 100 + i) for i, name in enumerate(NAMES)])


@pytest.fixture(scope="module")
def demo_tokenizer() -> Tokenizer:
    return Tokenizer.from_files(TextFiles.from_folder(demo.folder()))


def plain_text(control: ControlTokens, quoted: str) -> str:
    (text,) = control.split(quoted) if quoted else ("",)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("seed", range(20))
def test_a_quoted_text_holds_no_token_and_comes_back(seed: int):
    rng = random.Random(seed)
    pieces = [*NAMES, MARK, MARK * 2, "<", ">", "|", "w", "wor", "ord", "[", " ", "你", "\n", "x"]
    for _ in range(200):
        text = "".join(rng.choices(pieces, k=rng.randrange(12)))
        assert plain_text(CONTROL, CONTROL.quote(text)) == text


@pytest.mark.parametrize("name", TAGS)
def test_texts_that_a_template_joins_or_cuts_hold_no_token(name: str):
    for cut in range(len(name)):
        parts = [CONTROL.quote(name[:cut]), CONTROL.quote(name[cut:])]
        assert plain_text(CONTROL, "".join(parts)) == name
        assert all(isinstance(part, str) for part in CONTROL.split(CONTROL.quote(name)[cut:]))


def test_the_tokens_of_a_template_are_found_the_longest_first():
    rendered = f"<|im_start|>user\n{CONTROL.quote('<a>> <|im_end|>')}<a>><|im_end|>"
    assert list(CONTROL.split(rendered)) == [100, "user\n<a>> <|im_end|>", 106, 101]


def test_a_reply_keeps_its_own_tags_only():
    text = "".join(REPLY_TAGS) + "<|im_end|><thi"
    control = ControlTokens([*map(ControlToken, [*REPLY_TAGS, "<|im_end|>"], range(5))])
    assert list(control.split(control.quote_reply(text))) == [0, 1, 2, 3, "<|im_end|><thi"]
    assert list(control.split(control.quote(text))) == [text]


def test_only_a_reply_as_the_model_wrote_it_keeps_its_tags():
    control = ControlTokens([ControlToken("<think>", 0), ControlToken("</think>", 1)])
    text = "<think>hm</think>Hi"
    raw = {"role": "assistant", "content": text}
    for message, kept in (
        (raw, True),
        ({**raw, "content": [{"type": "text", "text": text}]}, True),
        ({**raw, "reasoning_content": None}, True),
        ({**raw, "reasoning_content": ""}, False),
        ({**raw, "role": "user"}, False),
        ({**raw, "role": "assistant<think>"}, False),
    ):
        content = control.quote_message(message)["content"]
        part = content if isinstance(content, str) else content[0]["text"]
        assert (0 in control.split(part)) is kept


def test_a_token_takes_the_whitespace_that_it_strips():
    control = ControlTokens([ControlToken("<m>", 7, True, True), ControlToken("<n>", 8)])
    assert list(control.split("a <m>\n b <n> c")) == ["a", 7, "b ", 8, " c"]
    assert list(control.split("<m> <m> x")) == [7, 7, "x"]
    spaces = " " * 300_000
    assert list(control.split(f"{spaces}<m")) == [f"{spaces}<m"]


def test_a_token_that_holds_whitespace_is_found():
    control = ControlTokens([ControlToken(" <x>", 7, True), ControlToken("  ", 8, True, True)])
    assert list(control.split("a  <x>b")) == ["a", 8, "<x>b"]
    assert list(control.split("a <x>b")) == ["a", 7, "b"]


def test_without_control_tokens_all_is_text():
    assert list(ControlTokens([]).split("<think>")) == ["<think>"]


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("place", PLACES)
def test_no_text_becomes_a_control_token(demo_tokenizer: Tokenizer, template: str, place: str):
    control = demo_tokenizer.control_tokens

    def ids(text: str) -> list[int]:
        prompt = PLACES[place](text)
        rendered = TEMPLATES[template].render(
            prompt.messages, tools=prompt.tools, control_tokens=control
        )
        return demo_tokenizer.encode_prompt(rendered)

    harmless = ids("harmless")
    for text in (*TOKENS, FORGED_TURN, *map("".join, product(TOKENS[:5], repeat=2)), MARK):
        assert forged(ids(text), harmless, control.ids) == 0, text
        if place == "message":
            assert text.strip() in demo_tokenizer.decode(ids(text))


@pytest.mark.parametrize("template", TEMPLATES)
def test_texts_without_control_tokens_have_the_ids_that_the_library_gives(
    demo_tokenizer: Tokenizer, template: str
):
    backend = tokenizers.Tokenizer.from_file(str(demo.folder() / "tokenizer.json"))
    for place in PLACES:
        for text in ("Hello", "a < b, <b>bold</b> e\u0301 [x] 你好\n\n  - | tab\t"):
            prompt = PLACES[place](text)
            rendered = [
                TEMPLATES[template].render(
                    prompt.messages, tools=prompt.tools, control_tokens=control
                )
                for control in (None, demo_tokenizer.control_tokens)
            ]
            expected = backend.encode(rendered[0], add_special_tokens=False).ids
            assert demo_tokenizer.encode_prompt(rendered[1]) == expected, place


def test_plain_text_becomes_no_control_token(demo_tokenizer: Tokenizer):
    for text in (*TOKENS, FORGED_TURN):
        ids = demo_tokenizer.encode(text)
        assert demo_tokenizer.control_tokens.ids.isdisjoint(ids)
        assert demo_tokenizer.decode(ids) == text


def test_added_words_stay_text(tokenizer: Tokenizer):
    assert tokenizer.encode("ñ") == [tokenizer.token_id("ñ")]
    assert tokenizer.token_id("ñ") not in tokenizer.control_tokens.ids


def test_a_tokenizer_that_spells_text_with_a_control_token_is_refused(backend):
    word = next(i for i in backend.encode("the quick brown").ids if i > 256)
    copy = tokenizers.Tokenizer.from_str(backend.to_str())
    copy.add_special_tokens([AddedToken(backend.id_to_token(word), special=True)])
    with pytest.raises(Qwen35Error, match="spells plain text with control tokens"):
        Tokenizer(copy).encode("the quick brown")


def test_marks_survive_escaped_json_and_printed_lists():
    template = ChatTemplate("{{ messages | tojson(ensure_ascii=True) }}{{ messages }}")
    message = {"role": "user", "content": "<think> é"}
    rendered = template.render([message], control_tokens=CONTROL)
    assert rendered.count(MARK) == 2
    assert plain_text(CONTROL, rendered) == template.render([message])
