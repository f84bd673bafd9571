"""The generated dialogues are reproducible, correct and apart from the evaluation."""

import itertools
import random
import re

import pytest

from scripts.demo_training import arithmetic, facts, needle
from scripts.demo_training.dialogues import Mix, generate, recall
from scripts.demo_training.evaluate import answer_of, contains
from scripts.demo_training.heldout import Split, is_held_out


def take(seed: int, count: int, held_out: bool = False) -> list:
    return list(itertools.islice(generate(seed, Mix(), held_out), count))


def test_same_seed_same_data() -> None:
    assert take(3, 50) == take(3, 50)
    assert take(3, 50) != take(4, 50)


def test_training_never_sees_held_out_operands() -> None:
    rng, split = random.Random(1), Split(False)
    for _ in range(500):
        a, sign, b = arithmetic.draw(rng, split)
        assert not is_held_out(f"{a}{sign}{b}")


def test_training_and_evaluation_share_no_fact_values() -> None:
    rng = random.Random(2)
    sides = []
    for held_out in (False, True):
        drawn = [facts.draw(rng, Split(held_out)) for _ in range(4000)]
        sides.append({(f.kind, f.value) for f in drawn})
    shared = {kind for kind, _ in sides[0] & sides[1]}
    assert not shared, f"these lists have no value on one side: {shared}"


def assert_steps_are_true(text: str) -> None:
    """Check every 'x + y = z' in a worked thought."""
    for left, right in re.findall(r"(?<![\d*+] )(\d+(?: [-+*] \d+)+) = (\d+)", text):
        assert eval(left) == int(right), (left, right, text)


@pytest.mark.parametrize("sign", "+-*")
def test_worked_steps_are_true_and_end_in_the_result(sign: str) -> None:
    for a, b in itertools.product(range(0, 100, 3), range(0, 100, 7)):
        text = arithmetic.work(a, sign, b)
        assert_steps_are_true(text)
        value = arithmetic.result(a, sign, b)
        assert re.search(rf"(?<!\d){re.escape(str(value))}$", text), text


def test_the_text_contains_the_answer_to_every_question() -> None:
    rng = random.Random(5)
    for _ in range(100):
        turns = needle.document(rng, Split(False), 30, 3)
        for turn in turns:
            assert turn.expects[0] in turns[0].user
            assert contains(turn.answer, turn.expects[0])


def test_depth_places_the_detail() -> None:
    for depth, low, high in ((0.0, 0.0, 0.1), (1.0, 0.85, 1.0)):
        turn = needle.document(random.Random(9), Split(True), 60, 1, depth)[0]
        sentence = turn.thought.removeprefix("The text says: ")
        assert low <= turn.user.index(sentence) / len(turn.user) <= high


def test_the_recall_question_follows_the_gap() -> None:
    asked = recall(random.Random(4), Split(True), 20, 2)
    users = [m["content"] for m in asked.messages if m["role"] == "user"]
    assert len(users) == 21
    assert asked.expects[0].lower() in users[0].lower()


def test_only_the_last_turn_has_a_thought() -> None:
    for made in take(6, 200):
        for message in made.messages[:-1]:
            if message["role"] == "assistant" and not message.get("tool_calls"):
                assert "reasoning_content" not in message


def test_a_number_inside_a_longer_number_does_not_count() -> None:
    assert contains("It is 47.", "47")
    assert not contains("It is 470.", "47")
    assert contains("Your name is Zoe.", "zoe")


def test_the_thought_does_not_count_as_the_answer() -> None:
    assert answer_of("It is 12\n</think>\n\nI do not know.<|im_end|>") == "I do not know."
