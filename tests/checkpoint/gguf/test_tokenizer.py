"""Tokenizer, template and sampling settings of a GGUF file, and the way back."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

import qwen35_mlx.demo
from qwen35_mlx.checkpoint.gguf import tokenizer as gguf_tokenizer
from qwen35_mlx.checkpoint.gguf.tokenizer import MAX_TOKENS
from qwen35_mlx.conversion.gguf_text import sampling_metadata, text_metadata
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer

DEMO = Path(qwen35_mlx.demo.__file__).parent
TEXTS = (
    "Hello world! It's 1234.5 o'clock, I'LL go.",
    "def f(x):\n\treturn  x ** 2\r\n\r\n# done\n\n\n",
    "हिन्दी में पाठ, ภาษาไทยก็ได้, 你好世界 مرحبا بالعالم",
    "cafe\u0301 caf\u00e9 A\u030angstro\u0308m ﬁ",
    "🚀 👩‍👩‍👧 😶\u200d🌫️ \u0000\u0001",
    "<|im_start|>user\nhi<|im_end|>\n<think>\n\n</think>\n\n<tool_call>",
    "  \n \t x   ",
    "",
)
# "a", "b", "c", "ab", a gap, a control token, a word of the user's, and padding.
SMALL: dict[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "qwen35",
    "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "[PAD4]", "<|im_end|>", "<think>", "[PAD7]"],
    "tokenizer.ggml.token_type": [1, 1, 1, 1, 5, 3, 4, 5],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 5,
    "tokenizer.ggml.add_bos_token": False,
    "tokenizer.chat_template": "{{ messages }}",
}


def demo_text() -> TextFiles:
    return TextFiles.from_folder(DEMO)


def text_files(metadata: Mapping[str, Any]) -> TextFiles:
    return gguf_tokenizer.text_files(metadata, Path("/models/m.gguf"))


def demo_metadata() -> dict[str, Any]:
    """What llama.cpp's converter writes for the demo's tokenizer: its rules, written again."""
    tokenizer = json.loads(demo_text().tokenizer)
    names = {i: (token, 1) for token, i in tokenizer["model"]["vocab"].items()}
    for added in tokenizer["added_tokens"]:
        content = added["content"]
        names[added["id"]] = content, 3 if added["special"] or is_control(content) else 4
    rows = range(max(names) + 30)
    return SMALL | {
        "tokenizer.ggml.tokens": [names.get(i, (f"[PAD{i}]", 5))[0] for i in rows],
        "tokenizer.ggml.token_type": [names.get(i, ("", 5))[1] for i in rows],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.eos_token_id": next(i for i in names if names[i][0] == "<|im_end|>"),
    }


def is_control(token: str) -> bool:
    """Qwen marks `<|fim_prefix|>` and its like as not special; llama.cpp's converter does."""
    return token.startswith("<|") and token.endswith("|>")


def backend(text: TextFiles) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_str(text.tokenizer)


def refused(metadata: Mapping[str, Any]) -> str:
    with pytest.raises(Qwen35Error) as caught:
        text_files(metadata)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("/models/m.gguf")
    return message


def test_it_encodes_as_the_tokenizer_that_it_was_made_from():
    want, got = backend(demo_text()), backend(text_files(demo_metadata()))
    for text in TEXTS:
        ids = want.encode(text, add_special_tokens=False).ids
        assert got.encode(text, add_special_tokens=False).ids == ids, text
        assert got.decode(ids, skip_special_tokens=True) == want.decode(ids)


def test_added_tokens_keep_their_ids_and_kinds():
    def kinds(text: TextFiles) -> dict[int, tuple[str, bool]]:
        added = backend(text).get_added_tokens_decoder()
        return {
            i: (token.content, token.special or is_control(token.content))
            for i, token in added.items()
        }

    assert kinds(text_files(demo_metadata())) == kinds(demo_text())


def test_the_projects_tokenizer_loads_it(tmp_path):
    text = text_files(demo_metadata())
    (tmp_path / "tokenizer.json").write_text(text.tokenizer, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(text.tokenizer_config))
    got, want = (
        Tokenizer.from_files(TextFiles.from_folder(tmp_path)),
        Tokenizer.from_files(TextFiles.from_folder(DEMO)),
    )
    assert got.vocab_size == want.vocab_size
    for rendered in TEXTS:
        assert got.encode(rendered) == want.encode(rendered)
        assert got.encode_prompt(rendered) == want.encode_prompt(rendered)


def test_unused_tokens_are_no_tokens_and_those_behind_a_gap_keep_their_ids():
    tokenizer = backend(text_files(SMALL))
    assert tokenizer.id_to_token(4) is None
    assert tokenizer.token_to_id("[PAD7]") is None
    assert tokenizer.encode("ab<|im_end|>c<think>").ids == [3, 5, 2, 6]


@pytest.mark.parametrize(("pre", "words"), [("qwen35", ["ก็บ"]), ("qwen2", ["ก", "็บ"])])
def test_combining_marks_belong_to_the_letters_of_qwen35_alone(pre, words):
    metadata = SMALL | {"tokenizer.ggml.pre": pre}
    tokenizer = backend(text_files(metadata))
    assert tokenizer.pre_tokenizer is not None
    spans = [span for _, span in tokenizer.pre_tokenizer.pre_tokenize_str("ก็บ")]
    assert ["ก็บ"[start:end] for start, end in spans] == words


def test_a_file_without_pre_is_split_as_qwen35():
    metadata = {key: SMALL[key] for key in SMALL if not key.endswith(".pre")}
    assert text_files(metadata) == text_files(SMALL)


def test_types_may_be_a_numpy_array():
    types = np.array(SMALL["tokenizer.ggml.token_type"], np.int32)
    assert text_files(SMALL | {"tokenizer.ggml.token_type": types}) == text_files(SMALL)


def test_a_reply_ends_at_every_end_token():
    tokens = ["a", "<|endoftext|>", "<|im_end|>", "<|other|>"]
    metadata = SMALL | {
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1, 3, 3, 3],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.padding_token_id": 1,
    }
    text = text_files(metadata)
    assert text.generation_config == {"eos_token_id": [3, 2, 1]}
    assert text.tokenizer_config["eos_token"] == "<|other|>"
    assert text.tokenizer_config["pad_token"] == "<|endoftext|>"
    assert "bos_token" not in text.tokenizer_config


def test_sampling_settings_are_the_shortest_numbers_of_their_float32():
    stored = {"temp": float(np.float32(0.6)), "top_p": float(np.float32(0.95)), "top_k": 20}
    metadata = SMALL | {f"general.sampling.{key}": value for key, value in stored.items()}
    generation = dict(text_files(metadata).generation_config)
    del generation["eos_token_id"]
    assert generation == {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "do_sample": True}


def test_temperature_zero_does_not_sample():
    generation = text_files(SMALL | {"general.sampling.temp": 0.0}).generation_config
    assert generation["do_sample"] is False


def test_the_default_template_is_taken():
    metadata = {key: SMALL[key] for key in SMALL if key != "tokenizer.chat_template"}
    assert text_files(metadata).chat_template is None
    metadata |= {
        "tokenizer.chat_templates": ["default", "tool_use"],
        "tokenizer.chat_template.default": "default",
        "tokenizer.chat_template.tool_use": "tools",
    }
    assert text_files(metadata).chat_template == "default"
    metadata["tokenizer.chat_template"] = "unnamed"
    assert text_files(metadata).chat_template == "unnamed"


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("model", "llama", "kind 'llama'"),
        ("model", 3, "not a text"),
        ("pre", "llama-bpe", "'llama-bpe'"),
        ("tokens", None, "no 'tokenizer.ggml.tokens'"),
        ("tokens", "abc", "not a list"),
        ("tokens", 7, "not a list"),
        ("tokens", ["a", 1], "no text"),
        ("tokens", ["a", "\ud800"], "no text"),
        ("tokens", ["a"] * (MAX_TOKENS + 1), "entries"),
        ("tokens", ["a", "b", "c", "ab", "x", "a", "y", "z"], "'a' twice"),
        ("token_type", None, "marks control tokens"),
        ("token_type", [1, 1, 1], "each of the 8"),
        ("token_type", [1, 1, 1, 1, 5, 3, 4, 0], "from 1 to 6"),
        ("token_type", [1, 1, 1, 1, 5, 3, 4, 7], "from 1 to 6"),
        ("token_type", [1, 1, 1, 1, 5, 3, 4, [5]], "from 1 to 6"),
        ("token_type", [1.0] * 8, "from 1 to 6"),
        ("token_type", "11115345", "from 1 to 6"),
        ("merges", None, "no 'tokenizer.ggml.merges'"),
        ("merges", ["a b c"], "'a b c'"),
        ("merges", ["ab"], "'ab'"),
        ("merges", ["b a"], "'b a'"),
        ("merges", ["a [PAD4]"], "[PAD4]"),
        ("eos_token_id", 8, "8 tokens"),
        ("eos_token_id", -1, "token id"),
        ("eos_token_id", "5", "token id"),
        ("padding_token_id", 2**40, "token id"),
        ("add_bos_token", "yes", "neither true nor false"),
    ],
)
def test_damaged_metadata_is_refused_in_one_line(key, value, fault):
    metadata = SMALL | {f"tokenizer.ggml.{key}": value}
    assert fault in refused({k: v for k, v in metadata.items() if v is not None})


@pytest.mark.parametrize(
    ("key", "value", "fault"),
    [
        ("tokenizer.chat_template", 5, "not a text"),
        ("general.sampling.temp", float("nan"), "finite"),
        ("general.sampling.top_k", "20", "not a number"),
    ],
)
def test_other_damaged_settings_are_refused_in_one_line(key, value, fault):
    assert fault in refused(SMALL | {key: value})


def test_a_merge_is_of_two_tokens_also_where_tokens_hold_spaces():
    tokens = ["a", "b c", "ab c", "<|im_end|>"]
    types = {"tokenizer.ggml.token_type": [1, 4, 1, 3], "tokenizer.ggml.eos_token_id": 3}
    metadata = SMALL | types | {"tokenizer.ggml.tokens": tokens}
    assert "'a b c'" in refused(metadata | {"tokenizer.ggml.merges": ["a b c"]})


def test_the_way_back_is_the_inverse():
    assert text_metadata(text_files(SMALL), 8) == SMALL
    sampling = {"temperature": 0.6, "top_k": 20, "min_p": 0.0, "eos_token_id": 5}
    stored = sampling_metadata(sampling)
    assert stored == {
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": 20,
        "general.sampling.min_p": 0.0,
    }
    generation = dict(text_files(SMALL | stored).generation_config)
    assert generation == sampling | {"eos_token_id": [5], "do_sample": True}


def test_a_model_that_does_not_sample_stores_no_sampling():
    assert sampling_metadata({"do_sample": False, "temperature": 0.6}) == {}


def test_the_demos_tokenizer_becomes_the_converters_metadata():
    want = demo_metadata()
    got = text_metadata(demo_text(), len(want["tokenizer.ggml.tokens"]))
    for key in ("tokens", "token_type", "merges", "pre", "eos_token_id"):
        assert got[f"tokenizer.ggml.{key}"] == want[f"tokenizer.ggml.{key}"]


def test_tokens_that_only_the_configuration_lists_are_written():
    extra = {"added_tokens_decoder": {"7": {"content": "<|new|>", "special": False}}}
    text = text_files(SMALL)
    text = replace(text, tokenizer_config={**text.tokenizer_config, **extra})
    got = text_metadata(text, 8)
    assert got["tokenizer.ggml.tokens"][7] == "<|new|>"
    # It is written like a control token, and llama.cpp takes it for one.
    assert got["tokenizer.ggml.token_type"][7] == 3


def test_an_end_token_is_written_also_if_the_configuration_names_none():
    text = replace(text_files(SMALL), tokenizer_config={"add_bos_token": True})
    got = text_metadata(text, 8)
    assert got["tokenizer.ggml.eos_token_id"] == 5
    # Nor is llama.cpp told to add a token that it would have to make up.
    assert got["tokenizer.ggml.add_bos_token"] is False
    with pytest.raises(Qwen35Error, match="ends a reply"):
        text_metadata(replace(text, tokenizer=text.tokenizer.replace("im_end", "other")), 8)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (("model", "type"), "WordPiece", "byte-level BPE"),
        (("model", "vocab"), ["a"], "byte-level BPE"),
        (("model", "vocab"), {"a": "0"}, "byte-level BPE"),
        (("model", "ignore_merges"), True, "ignore_merges"),
        (("model", "merges"), [["a", 1]], "merge"),
        (("model", "merges"), ["a b c"], "merge"),
        (("model", "merges"), [["a b", "c"]], "merge"),
        (("normalizer",), {"type": "NFKC"}, "splits text"),
        (("pre_tokenizer",), None, "splits text"),
        (("pre_tokenizer", "pretokenizers", 0, "pattern", "Regex"), ".", "splits text"),
        (("added_tokens",), [{"id": 3}], "added token"),
        (("added_tokens",), [{"id": 8, "content": "<x>"}], "beyond the 8 rows"),
        (("added_tokens",), [{"id": "5", "content": "<x>"}], "beyond the 8 rows"),
        (("added_tokens",), 5, "added token"),
    ],
)
def test_a_tokenizer_that_gguf_cannot_say_is_refused(path, value, fault):
    text = text_files(SMALL)
    tokenizer = json.loads(text.tokenizer)
    parent = tokenizer
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    with pytest.raises(Qwen35Error, match=fault):
        text_metadata(replace(text, tokenizer=json.dumps(tokenizer)), 8)


@pytest.mark.parametrize("text", ["", "[]", "{", '"a"'])
def test_a_damaged_tokenizer_is_refused(text):
    with pytest.raises(Qwen35Error, match=r"tokenizer\.json"):
        text_metadata(replace(text_files(SMALL), tokenizer=text), 8)
