"""Questions about this program and about the model itself, in many wordings of two languages.

guide.toml holds the topics. A wording such as `(change|switch) the model` stands for all its
expansions; groups may be nested, and an empty alternative leaves the group out.
"""

import random
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scripts.demo_training.turns import Exchange
from scripts.demo_training.words import listed

TOPICS = Path(__file__).with_name("guide.toml")
FRAMES = Path(__file__).with_name("frames.toml")
CHINESE_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Wordings:
    """One language of a topic: wordings of questions, and what is thought and said."""

    do: tuple[str, ...] = ()
    noun: tuple[str, ...] = ()
    ask: tuple[str, ...] = ()
    thought: str = ""
    say: tuple[str, ...] = ()
    does: str = ""


@dataclass(frozen=True, slots=True)
class Topic:
    """One thing to know; guide.toml says what the fields mean."""

    name: str
    needs: tuple[tuple[str, ...], ...]
    english: Wordings
    chinese: Wordings
    commands: tuple[str, ...] = ()
    program: str = ""  # "serve" or "convert": whose options the answers name; "" for the chat


def _wordings(table: dict[str, Any]) -> Wordings:
    lists = {key: tuple(table.get(key, ())) for key in ("do", "noun", "ask", "say")}
    return Wordings(**lists, thought=table["thought"], does=table.get("does", ""))


@cache
def topics() -> dict[str, Topic]:
    """The topics of guide.toml by name."""
    tables = tomllib.loads(TOPICS.read_text(encoding="utf-8"))
    return {
        name: Topic(
            name,
            tuple(tuple(choices) for choices in table["needs"]),
            _wordings(table),
            _wordings(table["zh"]),
            tuple(table.get("commands", ())),
            table.get("program", ""),
        )
        for name, table in tables.items()
    }


@cache
def frames() -> dict[str, list[str]]:
    """The sentences of frames.toml."""
    return tomllib.loads(FRAMES.read_text(encoding="utf-8"))


def expand(rng: random.Random, wording: str) -> str:
    """One expansion of a wording; inner groups first."""
    while match := re.search(r"\(([^()]*)\)", wording):
        chosen = rng.choice(match[1].split("|"))
        wording = wording[: match.start()] + chosen + wording[match.end() :]
    return re.sub(r"  +", " ", wording).strip()


def wide_marks(text: str) -> str:
    """Chinese text with the punctuation marks of Chinese after Chinese characters."""
    table = dict(zip(",?:;!", "\uff0c\uff1f\uff1a\uff1b\uff01", strict=True))
    near = r"(?<=[\u4e00-\u9fff])[,?:;!](?!/)|,(?=[\u4e00-\u9fff])"
    return re.sub(near, lambda m: table[m[0]], text)


def framed(rng: random.Random, words: Wordings, chinese: bool) -> str:
    """A question of one topic."""
    kinds = [("do", 5), ("noun", 1), ("ask", 4)]
    usable = [(kind, weight) for kind, weight in kinds if getattr(words, kind)]
    kind = rng.choices([k for k, _ in usable], [w for _, w in usable])[0]
    text = expand(rng, rng.choice(getattr(words, kind)))
    if kind == "ask":
        return text
    frame = rng.choice(frames()[f"{kind}_zh" if chinese else kind])
    text = frame.replace("{d}", text).replace("{n}", text)
    return text[:1].upper() + text[1:]


def misspelled(rng: random.Random, text: str) -> str:
    """The text with one slip: two letters swapped, or one left out or doubled."""
    letters = [i for i in range(1, len(text) - 1) if text[i].isalpha() and text[i + 1].isalpha()]
    if not letters:
        return text
    at = rng.choice(letters)
    new = rng.choice((text[at + 1] + text[at], text[at], text[at] * 2 + text[at + 1]))
    return text[:at] + new + text[at + 2 :]


# What may be left out in haste.
FUNCTION_WORDS = frozenset(
    listed(
        "a an the my this that do does to i is it me you your of in can for how what which where "
        "there want need would like please way have be i'd i'm what's where's tell show could "
        "should"
    )
)


def typed(rng: random.Random, text: str) -> str:
    """A question as people type it: with a greeting, in lower case, in haste, with slips."""
    if rng.random() < 0.12:
        text = text if text.startswith("I") else text[:1].lower() + text[1:]
        text = rng.choice(frames()["openers"]) + text
    if rng.random() < 0.12:
        mark = text[-1] if text[-1:] in ".?!" else ""
        text = text.removesuffix(mark) + rng.choice(frames()["closers"]) + mark
    if rng.random() < 0.1:
        short = [w for w in text.split() if w.lower() not in FUNCTION_WORDS or rng.random() < 0.4]
        text = " ".join(short) or text
    if rng.random() < 0.06:
        text = misspelled(rng, text)
    roll = rng.random()
    if roll < 0.3:
        text = text.rstrip(".?!")
    elif roll < 0.33:
        text = text.rstrip(".?!") + rng.choice(("??", "!", "...", " ?"))
    roll = rng.random()
    if roll < 0.3:
        return text[:1].lower() + text[1:]
    return text.lower() if roll < 0.45 else text.upper() if roll < 0.46 else text


def typed_zh(rng: random.Random, text: str) -> str:
    """A Chinese question as people type it."""
    if rng.random() < 0.1:
        text = rng.choice(frames()["openers_zh"]) + text
    if rng.random() < 0.35:
        text = text.rstrip("?。")
    elif rng.random() < 0.1 and not text.rstrip("?。").endswith(("吗", "吧", "了")):
        text = text.rstrip("?。") + rng.choice(frames()["closers_zh"])
    return text if rng.random() < 0.25 else wide_marks(text)


def about_key(rng: random.Random, topic: Topic, chinese: bool) -> Exchange:
    """What a key or a slash command of the topic does."""
    words = topic.chinese if chinese else topic.english
    names = sorted(set(re.findall(r"Ctrl\+\w|\bF\d\b|\bEsc\b|(?<![\w/])/[a-z]+\b", words.say[0])))
    own = [name for name in names if name.lower() in {n for group in topic.needs for n in group}]
    name = rng.choice(own or names)
    if chinese:
        user = typed_zh(rng, rng.choice(frames()["key_zh"]).replace("{k}", name))
        return Exchange(user, f"{name} {words.does}。", f"{name} {words.does}。", (words.does,))
    user = typed(rng, rng.choice(frames()["key"]).replace("{k}", name))
    return Exchange(user, f"{name} {words.does}.", f"{name} {words.does}.", (words.does,))


def ask(rng: random.Random, name: str = "", chinese: bool | None = None) -> Exchange:
    """A question about the topic of this name, or about a random one."""
    topic = topics()[name or rng.choice(list(topics()))]
    if chinese is None:
        chinese = rng.random() < CHINESE_SHARE
    words = topic.chinese if chinese else topic.english
    if words.does and rng.random() < 0.1:
        return about_key(rng, topic, chinese)
    question = framed(rng, words, chinese)
    if chinese:
        return Exchange(typed_zh(rng, question), words.thought, wide_marks(rng.choice(words.say)))
    return Exchange(typed(rng, question), words.thought, rng.choice(words.say))
