"""What the demo model is taught about this program is true, and apart from the evaluation."""

import ast
import contextlib
import io
import itertools
import random
import re
import tomllib
from collections import defaultdict
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
from qwen35_chat import main as chat
from qwen35_chat.commands import BY_NAME
from qwen35_chat.keys import key_names, key_problem, shown_keys
from qwen35_chat.models import PUBLISHED
from qwen35_chat.settings import PRESETS, THEMES, THINKING, VIEWS, Settings

from qwen35_mlx.demo import NAME
from qwen35_mlx.generation.sampling_parameters import RANGES
from qwen35_mlx.server.options import DEFAULT_PORT
from scripts.demo_training import evaluate_guide, guide, newcomer, words
from scripts.demo_training.dialogues import Mix, generate
from scripts.demo_training.evaluate_guide import END, Question, named
from scripts.demo_training.heldout import heldout_questions, is_reserved, squeezed

README = Path("README.md").read_text(encoding="utf-8")
DEMO = Path("qwen35_mlx/demo")
TOPICS = list(guide.topics().values())
SAID = [(t, text) for t in TOPICS for w in (t.english, t.chinese) for text in w.say]


def options_of(main: Callable[[list[str]], int], *arguments: str) -> set[str]:
    """The options that the help of a command lists."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main([*arguments, "--help"])
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", out.getvalue()))


CHAT = options_of(chat.main)
PROGRAMS = {
    "": CHAT,
    "serve": CHAT | options_of(chat.main, "serve"),
    "convert": CHAT | options_of(import_module("qwen35_mlx.convert").main),
}


def allowed(topic: guide.Topic) -> set[str]:
    """The keys, slash commands and options that an answer of the topic may name, lower case."""
    commands = [BY_NAME[name] for name in topic.commands]
    keys = {shown_keys(key) for c in commands for key in key_names(c.keys)}
    slashes = {f"/{c.slash}" for c in commands if c.slash}
    return {name.lower() for name in keys | slashes | PROGRAMS[topic.program]}


SETTING = re.compile(r'\w+ = "[^"]*"')  # a line of the settings file


def own_names(topic: guide.Topic) -> set[str]:
    """What its own commands are called."""
    return allowed(topic) - {option.lower() for option in PROGRAMS[topic.program]}


@pytest.mark.parametrize("topic", TOPICS, ids=lambda t: t.name)
def test_every_key_command_and_option_exists_and_belongs_to_its_topic(topic) -> None:
    for words_of in (topic.english, topic.chinese):
        for text in words_of.say:
            assert named(SETTING.sub("", text)) <= allowed(topic), text
            for letter in re.findall(r"(?:press|on it,|按) ?([a-z])\b", text):
                assert letter in allowed(topic), text


def test_the_names_of_an_answer_are_found() -> None:
    text = "Press Ctrl+L, F5 or Esc, type /model org/repo, or --mcp-config FILE -q; see ~/x/y/."
    assert named(text) == {"ctrl+l", "f5", "esc", "/model", "--mcp-config", "-q"}


@pytest.mark.parametrize(("topic", "text"), SAID, ids=[t.name for t, _ in SAID])
def test_every_answer_is_right_by_the_checker_of_the_evaluation(topic, text) -> None:
    said = guide.wide_marks(text) if text in topic.chinese.say else text
    question = "问" if text in topic.chinese.say else "How?"
    names = frozenset(named("\n".join((*topic.english.say, *topic.chinese.say))))
    assert Question("", question, topic.needs, names, True).fault(said + END) == ""


@pytest.mark.parametrize("topic", [t for t in TOPICS if t.english.does], ids=lambda t: t.name)
def test_the_key_that_is_asked_for_in_reverse_is_the_topics_own(topic) -> None:
    for seed, chinese in itertools.product(range(8), (False, True)):
        exchange = guide.about_key(random.Random(seed), topic, chinese)
        assert named(exchange.answer)
        assert named(exchange.answer) <= own_names(topic)


def test_values_that_answers_mention_are_accepted_by_the_settings() -> None:
    every = " ".join(text for _, text in SAID).replace(" and ", ", ")
    for value in re.findall(r"/theme ([a-z]+)", every):
        assert value in THEMES
    for value in re.findall(r"/thinking ([a-z]+)\b", every):
        assert value in THINKING
    for value in re.findall(r"/view ([a-z]+)\b", every):
        assert value in VIEWS
    for value in re.findall(r"/preset ([a-z]+)\b", every):
        assert value in PRESETS
    for table, name in re.findall(r"/settings ([a-z]+)\.([a-z_]+)", every):
        assert table == "sampling"
        assert name in RANGES
    for line in SETTING.findall(every):
        ((name, keys),) = tomllib.loads(line).items()
        assert name in BY_NAME
        assert all(key_problem(key, typing=True) == "" for key in key_names(keys))


def test_models_and_sizes_are_those_of_the_readme_and_the_list_of_models() -> None:
    rows = re.findall(r"^\| (\d+) GB.*?\| `([^`]+)` \(([\d.]+) GB\)", README, re.MULTILINE)
    assert [(int(memory), name, size) for memory, name, size in rows] == list(newcomer.FITS)
    published = {entry.name: entry for entry in PUBLISHED}
    for _, name, size in newcomer.FITS:
        assert f"{published[name].size / 1e9:.1f}" == size
    for text in (*guide.topics()["fitlist"].english.say, *guide.topics()["fitlist"].chinese.say):
        table = re.findall(r"\| (\d+) GB[^|]*\| ([^|]+) \| ([\d.]+) GB", text)
        assert [(int(memory), size) for memory, _, size in table] == [
            (memory, size) for memory, _, size in newcomer.FITS
        ]
        for (_, title, _), (_, name, _) in zip(table, newcomer.FITS, strict=True):
            assert title in name
    assert "Qwen3.5-4B-MLX-4bit" in guide.topics()["install"].english.say[1]


def test_figures_of_the_model_and_the_server_are_theirs() -> None:
    every = " ".join(text for _, text in SAID)
    card = (DEMO / "MODEL_CARD.md").read_text(encoding="utf-8")
    parameters = re.search(r"\| parameters \| ([\d,]+)", card)
    assert parameters
    assert round(int(parameters[1].replace(",", "")) / 1e6) == 13
    assert "13 million parameters" in every
    assert round(sum(f.stat().st_size for f in DEMO.iterdir()) / 1e6) == 15
    assert "15 MB" in every
    smallest = min(float(re.findall(r"([\d.]+)B", entry.title)[0]) for entry in PUBLISHED)
    assert smallest * 1e9 / 13e6 > 60
    config = (DEMO / "config.json").read_text(encoding="utf-8")
    assert '"max_position_embeddings": 8192' in config
    assert {entry.max_context for entry in PUBLISHED} == {262_144}
    assert f"127.0.0.1:{DEFAULT_PORT}" in every
    assert re.findall(r'load\("(\w+)"\)', every) == [NAME] * every.count("qwen35_mlx.load(")


def test_exports_and_the_mouse_do_what_is_said() -> None:
    suffixes = re.findall(r"\.\w+", BY_NAME["export"].argument)
    for text in (*guide.topics()["export"].english.say, *guide.topics()["export"].chinese.say):
        assert set(re.findall(r"\.(?:md|html|json)\b", text)) == set(suffixes), text
    assert Settings().copy_on_select == "on"


def test_folders_are_those_of_docs_storage() -> None:
    page = Path("docs/storage.md").read_text(encoding="utf-8")
    for folder in ("~/Library/Application Support/qwen35-chat/", "~/.local/share/qwen35-chat/"):
        assert f"`{folder}`" in page
        assert folder in guide.topics()["storage"].english.say[0]


def test_no_question_of_training_is_one_of_the_evaluation() -> None:
    asked = [
        message["content"]
        for made in itertools.islice(generate(21, Mix()), 6000)
        for message in made.messages
        if message["role"] == "user"
    ]
    tables = dict(heldout_questions())
    held = [a["question"] for a in tables.pop("asked")] + tables.pop("ends")["questions"]
    held += [text for texts in tables.values() for text in texts]
    assert not {squeezed(text) for text in asked} & ({squeezed(text) for text in held} - {""})


@pytest.mark.parametrize(
    "question",
    [
        "Is there a search for past chats?",
        "hi, IS THERE A SEARCH for past chats",
        "Please, is there a search for past chats here?",
        "怎么退出程序\uff1f",
    ],
)
def test_a_held_out_question_is_known_in_any_dress(question) -> None:
    assert is_reserved(question)
    assert not is_reserved(question + " Or a list of them?")


def test_held_out_questions_belong_to_topics_and_differ() -> None:
    found = [q.text for q in evaluate_guide.questions()]
    assert len(found) == len(set(map(squeezed, found)))
    assert set(heldout_questions()) - {"asked", "ends"} <= {t.name for t in TOPICS} | set(
        newcomer.KINDS
    )


def test_no_wording_belongs_to_two_topics() -> None:
    rng, owners = random.Random(8), defaultdict(set)
    for topic, chinese in itertools.product(TOPICS, (False, True)):
        for _ in range(300):
            words_of = topic.chinese if chinese else topic.english
            owners[squeezed(guide.framed(rng, words_of, chinese))].add(topic.name)
    assert {text: names for text, names in owners.items() if len(names) > 1} == {}


def test_questions_have_no_open_groups_or_slots() -> None:
    rng = random.Random(3)
    for _ in range(3000):
        for exchange in (guide.ask(rng), newcomer.ask(rng)):
            assert not re.search(r"[(){}|]", exchange.user), exchange.user
            assert all(expected in exchange.answer for expected in exchange.expects)


def spelled(number: int) -> str:
    """The number as questions write it: in digits, in English or in Chinese."""
    return f"{number}|{newcomer.number_words(number)}|{newcomer.number_zh(number)}"


def test_counting_runs_from_the_first_number_asked_for_to_the_last(monkeypatch) -> None:
    for name in ("typed", "typed_zh"):  # no slips in the numbers
        monkeypatch.setattr(newcomer, name, lambda _, text: text)
    rng = random.Random(4)
    for _ in range(400):
        exchange = newcomer.count(rng, rng.random() < 0.2)
        if exchange.expects == ("100",):
            continue
        numbers = [int(n) for n in exchange.answer.rstrip(".").split(", ")]
        assert max(numbers) <= newcomer.COUNT_END
        assert len({b - a for a, b in itertools.pairwise(numbers)}) == 1
        first, last = min(numbers), max(numbers)
        assert re.search(spelled(last), exchange.user), exchange
        assert first == 1 or re.search(spelled(first), exchange.user), exchange


def test_numbers_are_spelled() -> None:
    assert newcomer.number_words(21) == "twenty-one"
    assert [newcomer.number_zh(n) for n in (7, 10, 15, 20, 42, 100)] == [
        "七", "十", "十五", "二十", "四十二", "一百",
    ]  # fmt: skip


@pytest.mark.parametrize("answer", newcomer.answers("codeblock"), ids=lambda a: a["text"][:20])
def test_programs_run(answer) -> None:
    if answer["language"] == "JSON":
        ast.literal_eval(answer["text"])
    elif answer["language"] == "Python" and "read_text" not in answer["text"]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(answer["text"], "snippet", "exec"), {})
        assert out.getvalue()
    elif answer["language"] == "Python":
        compile(answer["text"], "snippet", "exec")


def test_translations_are_whole_and_no_noun_of_theirs_is_declined() -> None:
    languages = set(newcomer.CHINESE_LANGUAGES)
    for phrase, foreign in newcomer.texts()["translations"].items():
        assert set(foreign) == languages, phrase
    known = set(newcomer.texts()["translations"])
    rng = random.Random(6)
    for _ in range(2000):
        exchange = newcomer.translate(rng, False)
        if exchange.expects == ("Ctrl+L",):
            assert not any(re.search(rf"\b{p}\b in ", exchange.thought) for p in known)
    assert words.NOUNS


RIGHT = "Press Ctrl+L or type /model."
SWITCH = Question(
    "models", "How?", (("ctrl+l", "/model"),), frozenset({"ctrl+l", "/model"}), language=True
)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (RIGHT + END, ""),
        (RIGHT, "does not end"),
        ("Press Ctrl+L Ctrl+L Ctrl+L", "does not end"),
        ("Press F7." + END, "lacks ctrl+l or /model"),
        ("It is /modelling." + END, "lacks ctrl+l or /model"),
        ("Press Ctrl+L or F7." + END, "names f7"),
        ("Press Ctrl+L, then /quit." + END, "names /quit"),
        ("按 Ctrl+L。" + END, "is in another language"),
    ],
)
def test_the_checker_finds_what_is_wrong(reply, fault) -> None:
    assert SWITCH.fault(reply) == fault


def test_answers_of_newcomers_in_training_are_right_by_the_checker() -> None:
    rng = random.Random(12)
    for kind, chinese in itertools.product(newcomer.KINDS, (False, True)):
        if kind in ("count", "translate"):
            continue
        for _ in range(40):
            exchange = newcomer.ask(rng, kind, chinese)
            text = f"{exchange.answer.partition(' GB')[0].split()[-1]} GB" if kind == "fits" else ""
            needs = evaluate_guide.needs_of(kind, text)
            names = evaluate_guide.NEWCOMER_NAMES.get(kind)
            assert Question(kind, "", needs, names).fault(exchange.answer + END) == "", exchange
