"""Held-out questions, one function per skill, for any model behind a `generate` callable.

Fact values, operand pairs and details come from the held-out side of the split, which training
never uses (`heldout.is_held_out`), with seeds of their own. Earlier turns of a conversation carry
the reference answers, so that all models get the same questions.
"""

import random
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from scripts.demo_training import (
    arithmetic,
    definitions,
    evaluate_guide,
    needle,
    smalltalk,
    tools,
)
from scripts.demo_training.dialogues import called, distractor, itself, recall
from scripts.demo_training.facts import ask_untold, draw, draw_many, tell
from scripts.demo_training.heldout import Split
from scripts.demo_training.turns import Dialogue, Message, dialogue

Generate = Callable[..., str]  # (messages, thinking=, max_tokens=, tools=) -> the raw reply
Length = Callable[[list[Message]], int]  # messages -> tokens of the prompt
MTPAgreement = Callable[[Dialogue], tuple[int, int]]  # -> (agreeing, compared) tokens
HELD_OUT = Split(True)
REPLY_TOKENS = 160  # at most
SUM_TOKENS = 400  # a product needs about 200
MISSES = 60  # that are described


@dataclass(slots=True)
class Score:
    """Right answers out of `count`; `misses` describes the first few wrong ones."""

    skill: str
    right: int = 0
    count: int = 0
    misses: list[str] = field(default_factory=list)

    def add(self, right: bool, question: str, expected: str, reply: str) -> None:
        self.right += right
        self.count += 1
        if not right and len(self.misses) < MISSES:
            self.misses.append(f"{question[-120:]!r}: expected {expected!r}, got {reply[-200:]!r}")

    @property
    def share(self) -> float:
        return self.right / max(1, self.count)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"share": round(self.share, 4)}


def answer_of(reply: str) -> str:
    """The reply without its thought and end token."""
    return reply.rsplit("</think>", 1)[-1].replace("<|im_end|>", "").strip()


def contains(answer: str, expected: str) -> bool:
    """Whether `answer` has `expected` as a whole word or number, in any case."""
    pattern = rf"(?<![\w]){re.escape(expected.lower())}(?![\w])"
    return re.search(pattern, answer.lower()) is not None


def is_right(asked: Dialogue, reply: str) -> bool:
    """Whether the answer in a raw reply has every expected value."""
    return all(contains(answer_of(reply), expected) for expected in asked.expects)


def ask_and_score(
    score: Score, generate: Generate, asked: Dialogue, max_tokens: int = REPLY_TOKENS
) -> None:
    """Score the reply to the last question of a conversation."""
    messages = asked.messages[:-1]
    reply = generate(
        messages, thinking=asked.thinking, max_tokens=max_tokens, tools=asked.tools or None
    )
    score.add(is_right(asked, reply), str(messages[-1]["content"]), str(asked.expects), reply)


def facts_over_turns(generate: Generate, count: int, gap: int = 20) -> Score:
    """One to three facts in the first message, and a question about one `gap` turns later."""
    score = Score(f"recall over {gap} turns")
    for asked in recall_questions(count, gap):
        ask_and_score(score, generate, asked)
    return score


def recall_questions(count: int, gap: int, seed: int = 101) -> Iterator[Dialogue]:
    rng = random.Random(seed)
    for _ in range(count):
        yield recall(rng, HELD_OUT, gap, rng.choice((1, 2, 3)))


def untold(generate: Generate, count: int, seed: int = 102) -> Score:
    """Questions about facts that were never told; the model must say so."""
    rng, score = random.Random(seed), Score("says when a fact was not told")
    for _ in range(count):
        known = draw_many(rng, HELD_OUT, 2)
        wanted = draw(rng, HELD_OUT)
        while wanted.slot in {f.slot for f in known}:
            wanted = draw(rng, HELD_OUT)
        turns = [tell(rng, known), distractor(rng, HELD_OUT), ask_untold(rng, wanted)]
        ask_and_score(score, generate, dialogue(rng, turns, "untold"))
    return score


def sums(generate: Generate, count: int, sign: str, thinking: bool) -> Score:
    """Two-digit arithmetic with held-out pairs of operands."""
    score = Score(f"arithmetic {sign}" + ("" if thinking else " without thinking"))
    for asked in sum_questions(count, sign, thinking):
        ask_and_score(score, generate, asked, SUM_TOKENS)
    return score


def sum_questions(count: int, sign: str, thinking: bool, seed: int = 103) -> Iterator[Dialogue]:
    rng = random.Random(seed + ord(sign) + thinking)
    for _ in range(count):
        turn = arithmetic.question(rng, *arithmetic.draw(rng, HELD_OUT, 10, sign), thinking)
        yield dialogue(rng, [turn], "arithmetic", thinking=thinking)


def needles(generate: Generate, length: Length, tokens: int, count: int) -> Score:
    """One detail of a text of about `tokens` tokens (95 to 100 %), at evenly spread depths."""
    score = Score(f"needle in {tokens} tokens")
    for asked in needle_questions(length, tokens, count):
        ask_and_score(score, generate, asked)
    return score


def needle_questions(
    length: Length, tokens: int, count: int, seed: int = 104
) -> Iterator[Dialogue]:
    rng = random.Random(seed + tokens)
    for n in range(count):
        depth, text_seed, thinking = n / max(1, count - 1), rng.random(), rng.random() < 0.5
        sentences = tokens // 10
        asked = needle_in(sentences, depth, text_seed, thinking)
        for _ in range(19):
            size = length(asked.messages[:-1])
            if 0.95 * tokens <= size <= tokens:
                break
            sentences = round(sentences * 0.975 * tokens / size)
            asked = needle_in(sentences, depth, text_seed, thinking)
        yield asked


def needle_in(sentences: int, depth: float, seed: float, thinking: bool) -> Dialogue:
    """A text of this many sentences with a question about the detail at `depth`."""
    rng = random.Random(seed)
    turns = needle.document(rng, HELD_OUT, sentences, 1, depth)
    return dialogue(rng, turns, "needle", thinking=thinking)


def meanings(generate: Generate, seed: int = 105) -> Score:
    """Every word of the dictionary once. These are memorised, not held out."""
    rng, score = random.Random(seed), Score("definitions (seen in training)")
    for word in definitions.WORDS:
        ask_and_score(
            score, generate, dialogue(rng, [definitions.define(rng, word)], "definitions")
        )
    return score


def copies(generate: Generate, count: int, seed: int = 106) -> Score:
    """Made-up words to repeat, or to look up in a table."""
    rng, score = random.Random(seed), Score("copying and tables")
    for _ in range(count):
        turn = smalltalk.repeat(rng, HELD_OUT)
        if rng.random() < 0.5:
            turn = smalltalk.lookups(rng, HELD_OUT, 1)[0]
        ask_and_score(score, generate, dialogue(rng, [turn], "copy"))
    return score


def names(generate: Generate, count: int, seed: int = 107) -> Score:
    """The name given by the system message."""
    rng, score = random.Random(seed), Score("name from the system message")
    for _ in range(count):
        ask_and_score(score, generate, called(rng))
    return score


def identity(generate: Generate, count: int, seed: int = 110) -> Score:
    """Who the model is, without a name in the system message; it must not invent one."""
    rng, score = random.Random(seed), Score("says what it is")
    for _ in range(count):
        asked = itself(rng, HELD_OUT)
        messages = asked.messages[:-1]
        question = "Who are you?" if rng.random() < 0.5 else "What is your name?"
        messages[-1] = {"role": "user", "content": question}
        reply = generate(messages, thinking=asked.thinking, max_tokens=REPLY_TOKENS, tools=None)
        score.add("demo" in answer_of(reply).lower(), question, "a demo model", reply)
    return score


def calls(generate: Generate, count: int, seed: int = 108) -> Score:
    """Tool calls, with the right function and arguments."""
    rng, score = random.Random(seed), Score("tool calls")
    for _ in range(count):
        asked = tools.call(rng)
        at = next(i for i, m in enumerate(asked.messages) if m.get("tool_calls"))
        function = asked.messages[at]["tool_calls"][0]["function"]
        reply = generate(
            asked.messages[:at], thinking=asked.thinking, max_tokens=REPLY_TOKENS, tools=asked.tools
        )
        wanted = f"<function={function['name']}>\n" + "".join(
            f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in function["arguments"].items()
        )
        score.add(wanted in reply, str(asked.messages[at - 1]["content"]), wanted, reply)
    return score


def mtp_agreement(agreement: MTPAgreement, count: int, seed: int = 109) -> Score:
    """How often the MTP head and the main head agree, over greedy replies."""
    rng, score = random.Random(seed), Score("MTP agrees with the main head")
    for n in range(count):
        if n % 2:
            asked = recall(rng, HELD_OUT, rng.randint(1, 8), 2)
        else:
            thinking = rng.random() < 0.7
            turn = arithmetic.question(rng, *arithmetic.draw(rng, HELD_OUT), thinking)
            if n % 4:
                turn = distractor(rng, HELD_OUT)
            asked = dialogue(rng, [turn], "mtp", thinking=thinking)
        agreeing, compared = agreement(asked)
        score.right += agreeing
        score.count += compared
    return score


def guide_answers(generate: Generate, chinese: bool) -> Score:
    """Questions about the program and of newcomers, with and without thinking in turn."""
    score = Score(f"about the program, {'Chinese' if chinese else 'English'}")
    found = [q for q in evaluate_guide.questions() if q.chinese == chinese]
    return score_guide(score, generate, found)


def endings(generate: Generate) -> Score:
    """Odd requests; the reply has to end by itself."""
    return score_guide(Score("ends by itself"), generate, list(evaluate_guide.endings()))


def score_guide(
    score: Score, generate: Generate, questions: list[evaluate_guide.Question]
) -> Score:
    for number, question in enumerate(questions):
        reply = generate(
            [{"role": "user", "content": question.text}],
            thinking=number % 2 == 0,
            max_tokens=evaluate_guide.REPLY_TOKENS,
            tools=None,
        )
        fault = question.fault(reply.rsplit("</think>", 1)[-1].strip())
        score.add(not fault, question.text, f"{question.topic}: {fault}", reply)
    return score


def skills(
    generate: Generate, length: Length, agreement: MTPAgreement | None, count: int
) -> dict[str, list[Callable[[], Score]]]:
    """The scores of each skill, to be computed."""
    found: dict[str, list[Callable[[], Score]]] = {
        "recall": [lambda: facts_over_turns(generate, count)],
        "arithmetic": [
            lambda s=s, t=t: sums(generate, count, s, t) for t in (True, False) for s in "+-*"
        ],
        "needle": [lambda t=t: needles(generate, length, t, count) for t in (1024, 2048, 4096)],
        "untold": [lambda: untold(generate, count)],
        "definitions": [lambda: meanings(generate)],
        "copying": [lambda: copies(generate, count)],
        "identity": [lambda: names(generate, count), lambda: identity(generate, count)],
        "tools": [lambda: calls(generate, count)],
        "guide": [lambda z=z: guide_answers(generate, z) for z in (False, True)],
        "ends": [lambda: endings(generate)],
    }  # fmt: skip
    if agreement is not None:
        found["mtp"] = [lambda: mtp_agreement(agreement, count)]
    return found


def evaluate(
    generate: Generate,
    length: Length,
    agreement: MTPAgreement | None,
    count: int = 100,
    only: str = "",
) -> list[Score]:
    """Score skills with `count` questions each, and print each score.

    Args:
        only: names of skills, separated by commas; "" for all.

    Raises:
        KeyError: there is no such skill.
    """
    jobs = skills(generate, length, agreement, count)
    scores = []
    for job in [job for name in (only.split(",") if only else jobs) for job in jobs[name]]:
        score = job()
        scores.append(score)
        print(f"{score.skill:40} {score.right:5} / {score.count:5}  {score.share:.1%}", flush=True)
    return scores
