"""The benchmark of drafts: what it counts, its given replies, and a short run."""

import json
import sys
from collections.abc import Generator
from dataclasses import replace
from functools import partial
from itertools import islice

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.generation.drafter import PassCosts
from qwen35_mlx.session.model import Model
from scripts.benchmarks import draft_ties, drafts
from scripts.benchmarks.draft_runs import Given, Prepared, make_drafter, prepare, write
from scripts.benchmarks.draft_tasks import EDIT, TASKS, Question, mixed_questions, questions
from scripts.benchmarks.draft_ties import TopTwo, rounding_units

SHORT = Question([{"role": "user", "content": "Hi!"}])
REPEATED = Question([{"role": "user", "content": "zor ba vik" * 3}], reply="zor ba vik" * 4)


@pytest.fixture(scope="module")
def demo() -> Generator[Model]:
    with qwen35_mlx.load("demo") as model:
        yield model


@pytest.fixture(scope="module")
def repeated(demo: Model) -> Prepared:
    return prepare(demo, REPEATED)


@pytest.mark.parametrize("mode", ["off", "auto", "2", "copy"])
def test_a_given_reply_is_written_whatever_the_model_would_write(demo, repeated, mode):
    make = partial(make_drafter, mode, demo.network, costs=PassCosts())
    found = write(demo, repeated, 1000, make, eos=frozenset(repeated.given))
    assert found.ids == demo.tokenizer.encode(REPEATED.reply)


@pytest.mark.parametrize("tokens", [13, 14, 15])
def test_every_pass_is_counted_once_with_its_source(demo, repeated, tokens):
    """Replies that end within a pass, and with one."""
    make = partial(make_drafter, "copy", demo.network, costs=PassCosts())
    drafter = write(demo, repeated, tokens, make).drafter
    assert drafter is not None
    assert drafter.sources["copy"] == drafter.passes > 0
    # A pass gives a token beyond its drafts, except for one within which the reply ends.
    assert drafter.sources.total() - (tokens - drafter.accepted) in (0, 1)


def test_the_head_drafts_its_own_tokens_of_a_given_reply(demo):
    odd = prepare(demo, Question(SHORT.messages, reply="7;q,0<zz]4~Kb{"))
    make = partial(make_drafter, "3", demo.network, costs=PassCosts())
    drafter = write(demo, odd, 20, make).drafter
    assert drafter is not None
    assert 2 * drafter.accepted < drafter.drafted


def test_given_tokens_stand_at_their_positions():
    given = Given([5, 6, 7], 10)
    assert given(mx.zeros((2, 10)), mx.array([], mx.int32), 1).tolist() == [6, 7]


@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_questions_that_differ(demo, task):
    found = questions(demo, task, 2)
    assert len(found) == 2
    assert found[0].messages != found[1].messages
    for one in found:
        assert one.messages[-1]["role"] in ("user", "tool")
        assert bool(one.reply) == (task == "edit")


def test_an_edit_replaces_a_word_in_every_other_line(demo):
    one = questions(demo, "edit", 1)[0]
    pasted = one.messages[0]["content"].removeprefix(EDIT).splitlines()
    for place, (line, edited) in enumerate(zip(pasted, one.reply.splitlines(), strict=True)):
        words = zip(line.split(), edited.split(), strict=True)
        assert sum(a != b for a, b in words) == place % 2


def test_distances_are_in_steps_of_bfloat16():
    step = 2.0**-7
    large = np.array([1.0, 1 + step, 2.0, -1.0, 200.0])
    small = np.array([1.0, 1.0, 2 - 2 * step, -1 - 3 * step, 198.0])
    assert rounding_units(large, small).tolist() == [0, 1, 1, 3, 2]


def test_gaps_are_those_between_the_two_largest_logits():
    top = TopTwo(4)
    for row in ([1.0, 8.0, 7.75, 0.0], [16.0, 0.0, 1.0, 16.0]):
        top(mx.array([row]), mx.array([], mx.int32), 0)
    assert top.gaps().tolist() == [4, 0]


def command(monkeypatch, capsys, *arguments: str) -> tuple[int, list[str], str]:
    monkeypatch.setattr(sys, "argv", ["drafts", *arguments])
    code = drafts.main()
    shown = capsys.readouterr()
    return code, shown.out.splitlines(), shown.err


def test_a_short_run_without_a_head_says_so(monkeypatch, capsys):
    load = partial(qwen35_mlx.load, mtp="off")
    monkeypatch.setattr(drafts.qwen35_mlx, "load", load)
    code, lines, _ = command(
        monkeypatch, capsys, "--tasks", "edit", "--questions", "1", "--tokens", "6"
    )
    assert code == 0
    assert "no MTP head: drafts are copied from the conversation alone" in lines
    rows = json.loads(lines[-1])["rows"]
    assert [row["drafts"] for row in rows] == ["auto", "copy"]
    assert [row["differ"] for row in rows] == [0, 0]
    assert all(row["speed"] > 0 for row in rows)


def test_a_short_run_of_near_ties(demo, monkeypatch, capsys):
    dtypes = []
    # Loading it in bfloat16 takes long on a CPU.
    monkeypatch.setattr(drafts.qwen35_mlx, "load", lambda name, dtype: dtypes.append(dtype) or demo)
    monkeypatch.setattr(draft_ties, "mixed_questions", lambda: iter([SHORT]))
    code, lines, _ = command(monkeypatch, capsys, "--ties", "1", "--tokens", "4", "--depths", "2")
    assert code == 0
    assert dtypes == ["bfloat16"]
    found = json.loads(lines[-1])
    assert found["part"] == "ties"
    assert found["near"].keys() == {"0", "1", "2", "4"}
    assert [(row["drafts"], row["differ"]) for row in found["rows"]] == [("2", 0), ("copy", 0)]


def test_a_reply_that_differs_has_the_gap_at_its_first_other_token(demo, monkeypatch):
    """In place of rounding, the passes with drafts take another token at the third place."""

    def other_than_plain(*arguments, sampler=None, **more):
        found = write(*arguments, sampler=sampler, **more)
        if sampler is not None:
            expected.append(sampler.gaps()[2])
            return found
        return replace(found, ids=[*found.ids[:2], found.ids[2] + 1, *found.ids[3:]])

    expected: list[float] = []
    monkeypatch.setattr(draft_ties, "write", other_than_plain)
    monkeypatch.setattr(draft_ties, "mixed_questions", lambda: iter([SHORT]))
    rows, _ = draft_ties.measure(demo, 1, 5, ["copy"])
    assert rows[0]["differ"] == 1
    assert rows[0]["gaps"] == expected


@pytest.mark.parametrize("option", ["--questions", "--tokens", "--ties"])
def test_nothing_to_measure_is_one_line(monkeypatch, capsys, option):
    code, _, error = command(monkeypatch, capsys, option, "0")
    assert code != 0
    assert error.splitlines() == [f"error: {option} 0: give at least 1"]


def test_mixed_questions_do_not_end_soon():
    assert len(list(islice(mixed_questions(), 50))) == 50
