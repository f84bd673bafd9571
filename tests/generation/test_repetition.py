"""Endless repetition is found, and text that repeats itself for good reasons is not."""

import random
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice

import pytest

from qwen35_mlx import demo
from qwen35_mlx.generation import repetition
from qwen35_mlx.generation.repetition import POOR_SPAN, REPEATS, RICH, SPANS, repeats_without_end
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer

STEP = SPANS[0] // REPEATS


@pytest.fixture(scope="module")
def encode():
    return Tokenizer.from_files(TextFiles.from_folder(demo.folder())).encode


def found_at(ids: Sequence[int]) -> int | None:
    """After how many tokens a reply is ended, if it is."""
    lengths = range(STEP, len(ids) + 1, STEP)  # no others are looked at
    return next((n for n in lengths if repeats_without_end(ids[:n])), None)


def piece(length: int, different: int = 10**6) -> list[int]:
    rng = random.Random(length)
    return [rng.randrange(different) if different < 10**6 else i for i in range(length)]


@pytest.mark.parametrize("start", [0, 1000])
@pytest.mark.parametrize("length", [RICH, 100, 512, 513, 1000, 4096])
def test_a_piece_over_and_over_is_found_soon(start: int, length: int):
    reply = [*range(10_000, 10_000 + start), *islice(cycle(piece(length)), 50_000)]
    span = next(span for span in SPANS if length <= span // REPEATS)
    found = found_at(reply)
    assert found is not None
    assert start + span <= found < start + span + span // REPEATS + 1


@pytest.mark.parametrize("length", [1, 2, 15, 300])
def test_a_piece_of_few_tokens_is_found_late(length: int):
    found = found_at(list(islice(cycle(piece(length, RICH - 1)), 20_000)))
    assert found == POOR_SPAN


def test_a_piece_that_is_too_long_is_not_found():
    assert found_at(list(islice(cycle(piece(SPANS[-1] // REPEATS + 1)), 50_000))) is None


def test_one_token_that_differs_is_no_endless_repetition():
    reply = list(islice(cycle(piece(64)), 4096))
    assert repeats_without_end(reply)
    for place in (0, 1, 2000, 4095):
        assert not repeats_without_end([*reply[:place], 7_777, *reply[place + 1 :]])


def test_the_period_is_the_smallest_distance_of_equal_tokens():
    rng = random.Random(5)
    for _ in range(300):
        ids = [rng.randrange(2) for _ in range(rng.randrange(1, 12))] * rng.randrange(1, 4)
        naive = next(p for p in count(1) if all(a == b for a, b in zip(ids[p:], ids, strict=False)))
        assert repetition._period(ids) == naive


def rows(row: str, number: int) -> str:
    return (row + "\n") * number


def texts() -> Iterator[tuple[str, str]]:
    """What models are asked for, and write at length."""
    zeros = "[" + ", ".join(["0"] * 64) + "]"
    yield "a matrix of zeros", "[" + ",\n ".join([zeros] * 64) + "]"
    yield "an image of zeros", "[" + ", ".join(["0.0"] * 784) + "]"
    yield "a list of nulls", ", ".join(["null"] * 2000)
    yield "numbers", "\n".join(str(n) for n in range(3000))
    yield "squares", "\n".join(f"{n} * {n} = {n * n}" for n in range(700))
    yield "a line a hundred times", rows("I will not talk in class.", 100)
    yield "a rule", rows("-" * 80, 60)
    yield "an empty table", rows("|   |   |   |   |", 200)
    yield "a table", "".join(f"| item {n} | 0 | 0.00 | open |\n" for n in range(250))
    yield "code", rows("    assert parser.next() is None", 120)
    yield "data", "".join(f'{{"id": {n}, "name": "", "tags": []}},\n' for n in range(200))
    yield "hex", "".join(f"{n * 16:08x}: 0000 0000 0000 0000\n" for n in range(300))
    yield "a song", rows("\n".join(["Row, row, row your boat,", "gently down the stream."] * 2), 60)
    yield "a matrix in rows of words", rows("<td>0</td>" * 8, 40)


TEXTS = dict(texts())


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_repeats_itself_for_a_reason_is_left_alone(encode, name: str):
    assert found_at(encode(TEXTS[name])) is None


LOOP = "Wait, let me check this again. 17 + 25 is 42, so the answer is 42. But is it? "


@pytest.mark.parametrize("text", [LOOP, LOOP * 5 + "Hmm, I am not sure.\n\n"])
def test_a_loop_of_sentences_after_an_answer_is_found(encode, text: str):
    reply = encode("The answer follows from the sum of both numbers. " * 3 + text * 400)
    found = found_at(reply)
    assert found is not None
    assert found < 3 * SPANS[0]
