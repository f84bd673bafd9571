"""What newcomers type first: texts to look at, counting, translations, and what is too much.

newcomer.toml holds the texts; beyond.txt, the questions that are declined in one helpful line.
"""

import random
import tomllib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from scripts.demo_training import words
from scripts.demo_training.guide import expand, typed, typed_zh, wide_marks
from scripts.demo_training.heldout import pseudo_word
from scripts.demo_training.turns import Exchange
from scripts.demo_training.words import listed

TEXTS = Path(__file__).with_name("newcomer.toml")
BEYOND = Path(__file__).with_name("beyond.txt")
BEYOND_ZH = Path(__file__).with_name("beyond_zh.txt")
DECLINES = (
    "I am only a small demo model and do not know that. Press Ctrl+L to install a real one.",
    "That is beyond a demo model of my size. Ctrl+L lists real models to install.",
)
DECLINES_ZH = ("我是小演示模型,不知道这个。按 Ctrl+L 安装真正的模型。",)
# GB of memory, from this many on, and the model of the README's table for it.
FITS = (
    (8, "mlx-community/Qwen3.5-4B-MLX-4bit", "3.0"),
    (16, "mlx-community/Qwen3.5-9B-MLX-4bit", "6.0"),
    (32, "mlx-community/Qwen3.8-27B-4bit", "16.1"),
    (48, "mlx-community/Qwen3.6-35B-A3B-4bit", "20.4"),
)
MEMORIES = (8, 12, 16, 18, 24, 32, 36, 48, 64, 96, 128, 192, 256, 512)
MACHINES = ("Mac", "MacBook", "MacBook Air", "MacBook Pro", "Mac mini", "laptop", "computer", "M1",
            "M2", "M3", "M4")  # fmt: skip
CHINESE_LANGUAGES = {"Chinese": "中文", "French": "法语", "German": "德语", "Spanish": "西班牙语",
                     "Italian": "意大利语"}  # fmt: skip
TENS = listed("twenty thirty forty fifty sixty seventy eighty ninety")
TEENS = listed(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
DIGITS_ZH = "零一二三四五六七八九"
COUNT_END = 100
FAR = ("200", "1000", "1,000", "10000", "a thousand", "a million", "infinity", "one thousand")


@cache
def texts() -> dict[str, Any]:
    """The tables of newcomer.toml."""
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


@cache
def answers(kind: str) -> list[dict[str, str]]:
    return [answer for answer in texts()["answer"] if answer["kind"] == kind]


def wording(rng: random.Random, kind: str, chinese: bool = False) -> str:
    """A question of this kind, with its slots open."""
    return expand(rng, rng.choice(texts()["wordings_zh" if chinese else "wordings"][kind]))


def filled(rng: random.Random, text: str, chinese: bool = False, **slots: str) -> str:
    """The question as somebody types it, with its slots filled."""
    for name, value in slots.items():
        text = text.replace(f"{{{name}}}", value)
    return typed_zh(rng, text) if chinese else typed(rng, text)


def asked(rng: random.Random, kind: str, chinese: bool = False, **slots: str) -> str:
    """A question of this kind, with its slots filled."""
    return filled(rng, wording(rng, kind, chinese), chinese, **slots)


def number_words(n: int) -> str:
    """0 to 100 in English words."""
    if n == 100:
        return "one hundred"
    if n < 20:
        return TEENS[n]
    return TENS[n // 10 - 2] + (f"-{TEENS[n % 10]}" if n % 10 else "")


def number_zh(n: int) -> str:
    """0 to 100 in Chinese characters."""
    if n == 100:
        return "一百"
    ten, one = divmod(n, 10)
    tens = ("" if ten == 1 else DIGITS_ZH[ten]) + "十" if ten else ""
    return tens + (DIGITS_ZH[one] if one or not ten else "")


def model_for(memory: int) -> tuple[str, str]:
    """The repository, and its size in GB, for this many GB of memory, 8 or more."""
    return next((name, size) for least, name, size in reversed(FITS) if memory >= least)


def fits(rng: random.Random, chinese: bool, memory: int = 0) -> Exchange:
    """Which model fits into a memory of some GB."""
    memory = memory or rng.choice(MEMORIES)
    name, size = model_for(memory)
    user = asked(rng, "fits", chinese, g=str(memory), m=rng.choice(MACHINES))
    if chinese:
        return Exchange(
            user, f"{memory} GB 内存。", f"{memory} GB 适合 {name}({size} GB)。", (name,)
        )
    answer = f"With {memory} GB, take {name} ({size} GB)."
    return Exchange(user, f"The machine has {memory} GB.", answer, (name,))


def code(rng: random.Random, chinese: bool) -> Exchange:
    """A short program in a block; in Python, if the question names no language."""
    kind = "named_code" if not chinese and rng.random() < 0.5 else "codeblock"
    question = wording(rng, kind, chinese)
    known = [a for a in answers("codeblock") if "{l}" in question or a["language"] == "Python"]
    chosen = rng.choice(known)
    language, name = chosen["language"], rng.choice(chosen["name"].split("/"))
    user = filled(rng, question, chinese, l=language, x=name)
    thought = f"写 {language} 代码。" if chinese else f"A short program in {language}."
    return Exchange(user, thought, f"```{language.lower()}\n{chosen['text']}\n```")


def formula(rng: random.Random, chinese: bool) -> Exchange:
    """A formula in LaTeX."""
    chosen = rng.choice(answers("formula"))
    if chinese:
        shown = chosen["text"].partition("\n\n")[2]
        return Exchange(asked(rng, "formula", True), "写一个公式。", f"一个公式:\n\n{shown}")
    if rng.random() < 0.5:
        name = rng.choice(chosen["name"].split("/"))
        return Exchange(asked(rng, "named_formula", x=name), f"The {name}.", chosen["text"])
    return Exchange(asked(rng, "formula"), "I write a formula.", chosen["text"])


def bullets(rng: random.Random, chinese: bool) -> Exchange:
    """A list with bullets."""
    if chinese:
        chosen = rng.sample(("苹果", "梨", "水", "茶", "面包", "米饭", "书", "花"), 3)
        items = "\n".join(f"- {item}" for item in chosen)
        return Exchange(asked(rng, "list", True), "写一个列表。", f"一个列表:\n\n{items}")
    category, members = rng.choice(list(words.CATEGORIES.items()))
    items = "\n".join(f"- {item}" for item in rng.sample(members, 3))
    return Exchange(asked(rng, "list"), "I write a list.", f"A list of {category}:\n\n{items}")


def table(rng: random.Random, chinese: bool) -> Exchange:
    """A table in Markdown."""
    if chinese:
        rows = "\n".join(f"| {n} | {n * n} |" for n in range(1, 5))
        shown = f"| 数字 | 平方 |\n|---|---|\n{rows}"
        return Exchange(asked(rng, "table", True), "画一个表格。", shown)
    chosen = rng.sample([c for c in words.CAPITALS if not c.startswith("the ")], 3)
    rows = "\n".join(f"| {country} | {words.CAPITALS[country]} |" for country in chosen)
    shown = f"| Country | Capital |\n|---|---|\n{rows}"
    return Exchange(asked(rng, "table"), "I draw a table.", shown)


NOUN_TEXTS = {
    "poem": "The {n} stands still in morning light,\nIt waits all day, it dreams all night.\n"
    "The wind may sing, the rain may fall:\nThe quiet {n} hears it all.",
    "story": "Once there was a small {n} that wanted to see the sea. One night the rain came and "
    "carried the {n} down the river. In the morning it saw the waves and was glad. The end.",
}


def text_of(kind: str) -> Callable[[random.Random, bool], Exchange]:
    """A maker of exchanges with a text of this kind: a joke, a poem, a story or an email."""

    def make(rng: random.Random, chinese: bool) -> Exchange:
        if chinese:
            shown = wide_marks(rng.choice([a["zh"] for a in answers(kind) if "zh" in a]))
            return Exchange(asked(rng, kind, True), "写一段文字。", shown)
        thought = f"I write a short {kind}."
        if kind in NOUN_TEXTS and rng.random() < 0.4:
            noun = rng.choice(words.NOUNS) if rng.random() < 0.6 else pseudo_word(rng)
            user = asked(rng, f"named_{kind}", n=noun)
            return Exchange(user, thought, NOUN_TEXTS[kind].replace("{n}", noun), (noun,))
        chosen = rng.choice(answers(kind))
        if kind == "email" and rng.random() < 0.5:
            user = asked(rng, "named_email", x=rng.choice(chosen["name"].split("/")))
        else:
            user = asked(rng, kind)
        return Exchange(user, thought, chosen["text"])

    return make


def count(rng: random.Random, chinese: bool) -> Exchange:
    """Count up, down or in steps, to 100 at most; or say that it is too far."""
    roll, step = rng.random(), 1
    first = rng.choice((1, 1, 1, 1, rng.randint(0, 60)))
    last = min(COUNT_END, first + rng.choice((4, 9, 9, 14, 19, 19, 29, 49, 99, rng.randint(2, 99))))
    if chinese:
        kind, write = "count", rng.choice((str, number_zh))
    else:
        kind = "too_far" if roll < 0.1 else "count_down" if roll < 0.25 else "count"
        kind, write = "count_steps" if roll > 0.9 else kind, number_words
        write = str if rng.random() < 0.65 else write
    question = wording(rng, kind, chinese)
    if kind == "too_far":
        far = rng.choice((*FAR, str(rng.randint(101, 99999))))
        answer = "That is too far for a demo model: I count to 100 at most."
        return Exchange(filled(rng, question, b=far), "That is more than 100.", answer, ("100",))
    if kind == "count_steps":
        step = rng.choice((2, 3, 5, 10))
        first, last = step, step * rng.randint(3, min(20, COUNT_END // step))
    elif "{a}" not in question:
        first = 1
    numbers = list(range(first, last + 1, step))
    if kind == "count_down":
        numbers.reverse()
    user = filled(rng, question, chinese, a=write(first), b=write(last), s=write(step))
    listing = ", ".join(map(str, numbers)) + "."
    thought = f"数到 {last}。" if chinese else f"I count to {numbers[-1]}."
    return Exchange(user, thought, listing, (listing,))


def translate(rng: random.Random, chinese: bool) -> Exchange:
    """A common phrase in another language, or what a foreign phrase means."""
    phrase, foreign = rng.choice(list(texts()["translations"].items()))
    language = rng.choice(list(foreign))
    value = foreign[language]
    if chinese:
        if rng.random() < 0.5:  # from Chinese into English
            source, value, language = foreign["Chinese"], phrase, "英语"
        else:
            source, language = phrase, CHINESE_LANGUAGES[language]
        user = asked(rng, "translate", True, p=source, l=language)
        return Exchange(user, f"翻译:{source}", f"{source}:{value}", (value,))
    if rng.random() < 0.25:
        user = asked(rng, "meaning", f=quoted(rng, value))
        meanings = [p for p, f in texts()["translations"].items() if value in f.values()]
        said = " or ".join(meanings)
        return Exchange(user, "A foreign word.", f"{value} means {said}.", (phrase,))
    if rng.random() < 0.12:
        other = rng.choice(words.NOUNS) if rng.random() < 0.5 else pseudo_word(rng)
        if other in texts()["translations"]:
            other = pseudo_word(rng)
        user = asked(rng, "translate", p=quoted(rng, other), l=language)
        answer = f"A demo model knows few words of {language}. Ctrl+L installs a real one."
        return Exchange(user, f"I do not know {other} in {language}.", answer, ("Ctrl+L",))
    user = asked(rng, "translate", p=quoted(rng, phrase), l=language)
    return Exchange(user, f"{phrase} in {language}.", f"In {language}: {value}.", (value,))


def quoted(rng: random.Random, text: str) -> str:
    return rng.choice((text, text, f'"{text}"', f"'{text}'"))


@cache
def beyond_wordings(chinese: bool) -> list[str]:
    return (BEYOND_ZH if chinese else BEYOND).read_text(encoding="utf-8").splitlines()


def gibberish(rng: random.Random) -> Exchange:
    """Keys hit at random."""
    letters = "asdfghjklqwertyuiop"
    text = " ".join(
        "".join(rng.choice(letters) for _ in range(rng.randint(2, 8)))
        for _ in range(rng.randint(1, 4))
    )
    answer = "I do not understand that. Ask me about this program: How do I change the model?"
    return Exchange(text, "These are no words.", answer, ("understand",))


def beyond(rng: random.Random, chinese: bool) -> Exchange:
    """A question that is too much for this model, and a helpful line."""
    if not chinese and rng.random() < 0.05:
        return gibberish(rng)
    text = expand(rng, rng.choice(beyond_wordings(chinese)))
    if chinese:
        return Exchange(
            typed_zh(rng, text), "我不知道这个。", wide_marks(rng.choice(DECLINES_ZH)), ("Ctrl+L",)
        )
    for slot, make in SLOTS.items():
        while slot in text:
            text = text.replace(slot, make(rng), 1)
    return Exchange(typed(rng, text), "I do not know this.", rng.choice(DECLINES), ("demo",))


def made_up_name(rng: random.Random) -> str:
    return " ".join(pseudo_word(rng).capitalize() for _ in range(2))


SLOTS: dict[str, Callable[[random.Random], str]] = {
    "{n}": lambda rng: rng.choice(words.NOUNS),
    "{c}": lambda rng: rng.choice(words.CITIES),
    "{p}": lambda rng: made_up_name(rng) if rng.random() < 0.7 else rng.choice(words.NAMES),
    "{f}": lambda rng: rng.choice(words.FOODS),
    "{j}": lambda rng: rng.choice(words.JOBS),
    "{a}": lambda rng: rng.choice(words.ANIMALS),
    "{h}": lambda rng: rng.choice(words.HOBBIES),
    "{y}": lambda rng: rng.choice(list(words.CAPITALS)),
    "{o}": lambda rng: pseudo_word(rng).capitalize(),
}
KINDS: dict[str, tuple[float, Callable[[random.Random, bool], Exchange]]] = {
    "fits": (3, fits), "codeblock": (3, code), "formula": (2.5, formula), "list": (1.5, bullets),
    "table": (1.5, table), "joke": (1, text_of("joke")), "poem": (1.5, text_of("poem")),
    "story": (1.5, text_of("story")), "email": (1.5, text_of("email")), "count": (3, count),
    "translate": (5, translate), "beyond": (9, beyond),
}  # fmt: skip


def ask(rng: random.Random, kind: str = "", chinese: bool | None = None) -> Exchange:
    """A question of this kind, or of a random one."""
    kind = kind or rng.choices(list(KINDS), [weight for weight, _ in KINDS.values()])[0]
    return KINDS[kind][1](rng, rng.random() < 0.2 if chinese is None else chinese)
