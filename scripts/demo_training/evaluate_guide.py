"""Held-out questions about this program and of newcomers, and whether an answer is right.

heldout_guide.toml holds the questions, in wordings that training does not have. An answer is right
if it ends by itself, holds the facts that it needs, is in the language of the question, and names
no key, slash command or option that belongs to something else.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from scripts.demo_training import guide, newcomer
from scripts.demo_training.heldout import heldout_questions

END = "<|im_end|>"
REPLY_TOKENS = 600  # to 100 are some 400
NAMES = re.compile(
    r"(?:Ctrl|Shift|Alt)\+\w+|\bF\d+\b|\bEsc\b|\bTab\b|(?<![\w/.~-])/[a-z]+\b(?!/)|(?<![\w-])--?[a-z][a-z-]*",
    re.IGNORECASE,
)
CHINESE = re.compile(r"[\u4e00-\u9fff]")
# Answers of newcomer.py that hold texts: one of them, word for word.
TEXT_KINDS = ("codeblock", "formula", "joke", "poem", "story")
OTHER_NEEDS = {
    "list": (("- ",),), "table": (("|---|",),), "email": (("subject:", "主题"),),
    "beyond": (("demo", "演示", "understand"),),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A held-out question.

    Attributes:
        needs: a right answer holds one text of every group, in any case.
        names: keys, slash commands and options that it may name; None for any.
        language: whether it has to be in the language of the question.
    """

    topic: str
    text: str
    needs: tuple[tuple[str, ...], ...]
    names: frozenset[str] | None = None
    language: bool = False

    @property
    def chinese(self) -> bool:
        return CHINESE.search(self.text) is not None

    def fault(self, reply: str) -> str:
        """What is wrong with a raw reply without its thought; "" if it is right."""
        if not reply.rstrip().endswith(END):
            return "does not end"
        answer = reply.removesuffix(END).strip()
        for group in self.needs:
            if not any(holds(answer, text) for text in group):
                return f"lacks {' or '.join(group)[:60]}"
        if self.names is not None and (strange := named(answer) - self.names):
            return f"names {', '.join(sorted(strange))}"
        if self.language and self.chinese != (CHINESE.search(answer) is not None):
            return "is in another language"
        return ""


def holds(answer: str, text: str) -> bool:
    """Whether the answer has the text in any case: a word as a whole one, or its plural."""
    start = "(?<![a-z0-9])" if text[0].isascii() and text[0].isalnum() else ""
    end = "s?(?![a-z0-9])" if text[-1].isascii() and text[-1].isalnum() else ""
    return re.search(start + re.escape(text.lower()) + end, answer.lower()) is not None


def named(text: str) -> frozenset[str]:
    """The keys, slash commands and options in a text, in lower case."""
    return frozenset(name.lower() for name in NAMES.findall(text))


def needs_of(kind: str, text: str) -> tuple[tuple[str, ...], ...]:
    """What the answer to a question of a kind of newcomer.py needs."""
    if kind == "fits":
        memory = re.search(r"(\d+) ?G", text)
        assert memory, text
        return ((newcomer.model_for(int(memory[1]))[0],),)
    if kind in TEXT_KINDS:
        found = [a[key] for a in newcomer.answers(kind) for key in ("text", "zh") if key in a]
        patterns = (
            [newcomer.NOUN_TEXTS[kind].split("{n}")[1]] if kind in newcomer.NOUN_TEXTS else []
        )
        # The Chinese texts are shown with Chinese marks, and formulas without their sentence.
        parts = [guide.wide_marks(t).partition("\n\n")[2] or guide.wide_marks(t) for t in found]
        whole = [guide.wide_marks(t) for t in found]
        return (tuple(parts if kind == "formula" else [*whole, *patterns]),)
    return OTHER_NEEDS[kind]


def questions() -> Iterator[Question]:
    """All held-out questions with facts to check."""
    for topic, texts in heldout_questions().items():
        if topic in ("asked", "ends"):
            continue
        for text in texts:
            if topic in newcomer.KINDS:
                yield Question(topic, text, needs_of(topic, text), NEWCOMER_NAMES.get(topic))
                continue
            known = guide.topics()[topic]
            say = "\n".join((*known.english.say, *known.chinese.say))
            yield Question(topic, text, known.needs, named(say), language=True)
    for asked in heldout_questions()["asked"]:
        yield Question("asked", asked["question"], tuple(map(tuple, asked["needs"])))


NEWCOMER_NAMES = {"beyond": frozenset({"ctrl+l"}), "fits": frozenset(), "list": frozenset()}


def endings() -> Iterator[Question]:
    """Questions whose reply has to end, whatever it says."""
    for text in heldout_questions()["ends"]["questions"]:
        yield Question("ends", text, ())
