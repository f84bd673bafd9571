"""How many tokens are drafted, on machines and with acceptances that are simulated."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.generation.drafter import CPU_HOPEFUL, MAX_DEPTH, Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling

SAMPLER = Sampler(Sampling(temperature=0), 8)
EMPTY = mx.array([], mx.int32)
HIDDEN = mx.zeros((1, 1, 1))
TOKENS = 3000

# Milliseconds of a pass by its drafts, 0 to 6: the first two as measured on an H200 with the head's
# time added, then a machine on which a pass costs as much as that many single ones.
MACHINES = {
    "4b": [2.4, 3.1, 3.8, 4.6, 5.4, 6.3, 7.2],
    "35b-a3b": [3.7, 4.1, 4.3, 4.8, 5.8, 6.9, 8.0],
    "no gain": [2.0, 4.1, 6.2, 8.3, 10.4, 12.5, 14.6],
}


class Head:
    """In place of `MTPDrafts`."""

    def begin(self, prompt: Sequence[int], cached: int) -> None:
        pass

    def read(self, ids: Sequence[int], hidden: mx.array | None = None) -> None:
        pass

    def draft(self, count: int, *_: Any) -> mx.array:
        return mx.zeros(count, mx.int32)


def simulate(
    costs: Sequence[float],
    share: Callable[[int], float],
    depth: int | None = None,
    known: PassCosts | None = None,
    tokens: int = TOKENS,
) -> tuple[float, list[int]]:
    """Tokens a millisecond, and the drafts of each pass.

    Args:
        share: of the drafts that are right, by the tokens so far.
    """
    now, rng, found = 0.0, random.Random(3), 0
    head: Any = Head()
    drafter = Drafter(head, None, known or PassCosts(), depth=depth, clock=lambda: now)
    passes: list[int] = []
    hidden = mx.zeros((1, 1, 1))
    while found < tokens:
        count = 0
        if drafter.wants_to_draft:
            drafts = drafter.draft(SAMPLER, EMPTY, found)
            count = 0 if drafts is None else drafts.size
        passes.append(count)
        # A busy machine: passes differ, and a few take far longer.
        now += costs[count] * rng.choice([0.97, 1, 1, 1.03]) * (5 if rng.random() < 0.005 else 1)
        accepted = 0
        while accepted < count and rng.random() < share(found):
            accepted += 1
        drafter.read([0] * (accepted + 1), hidden)
        found += accepted + 1
    return found / now, passes


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("share", [0.0, 0.5, 0.8, 1.0])
def test_it_is_nearly_as_fast_as_the_best_fixed_depth(machine, share):
    costs = MACHINES[machine]
    fixed = [simulate(costs, lambda _: share, depth)[0] for depth in range(MAX_DEPTH + 1)]
    found, _ = simulate(costs, lambda _: share)
    assert found >= 0.97 * fixed[0]
    assert found >= 0.9 * max(fixed)


def test_it_stops_when_drafts_are_wrong_and_comes_back_when_they_are_right():
    _, passes = simulate(MACHINES["4b"], lambda done: 0.9 if not 1000 < done < 2000 else 0.0)
    drafted = np.array(passes) > 0
    assert drafted[:300].mean() > 0.8
    assert drafted[len(passes) // 2 - 200 : len(passes) // 2 + 100].mean() < 0.1
    assert drafted[-100:].mean() > 0.8


@pytest.mark.parametrize("machine", ["4b", "35b-a3b"])
def test_drafts_that_are_all_wrong_are_given_up_soon(machine):
    _, passes = simulate(MACHINES[machine], lambda _: 0.0, tokens=40)
    assert 1 <= sum(passes) <= 16


def test_few_passes_find_out_that_drafts_lose():
    """What a pass with many costs says what those with fewer will."""
    _, passes = simulate(MACHINES["no gain"], lambda _: 0.5, tokens=150)
    assert np.count_nonzero(passes) <= 8


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cpu_tries_few_drafts_since_they_lose_there(share):
    costs = PassCosts(CPU_HOPEFUL)
    _, passes = simulate(MACHINES["no gain"], lambda _: share, known=costs, tokens=150)
    assert 1 <= sum(passes) <= 4


def test_a_cost_that_was_not_timed_lies_between_those_that_were():
    costs = PassCosts()
    for drafts, seconds in ((0, 1.0), (2, 1.5), (6, 3.5)):
        for _ in range(3):
            costs.add("mtp" if drafts else "", drafts, seconds)
    assert [costs.seconds("mtp", n) for n in range(7)] == [1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 3.5]
    assert costs.seconds("copy", 4) == pytest.approx(1.2)


def test_what_passes_cost_is_known_to_the_next_reply():
    costs = PassCosts()
    for _ in range(2):  # a pass of six drafts may be tried in the second
        simulate(MACHINES["no gain"], lambda _: 0.5, known=costs)
    _, passes = simulate(MACHINES["no gain"], lambda _: 0.5, known=costs, tokens=200)
    assert np.count_nonzero(passes) <= 4


def test_copies_are_drafted_where_the_conversation_repeats():
    costs, copies = PassCosts(), CopyDrafts()
    for count, seconds in {0: 1.0, 2: 1.1, 4: 1.2, 7: 1.4, 16: 2.5}.items():
        for _ in range(4):
            costs.add("copy" if count else "", count, seconds)
    drafter = Drafter(None, copies, costs)
    drafter.begin([*range(40), 99], 0)
    assert not drafter.wants_to_draft
    drafter.read([1, 2, 3], mx.zeros((1, 3, 1)))
    assert drafter.wants_to_draft
    drafts = drafter.draft(SAMPLER, EMPTY, 3)
    assert drafts is not None
    assert drafts.tolist() == list(range(4, 4 + drafts.size))
    assert drafts.size >= 4


def timed(single: float, passes: Sequence[tuple[int, int, float]], context: int) -> Drafter:
    """A drafter after passes of a reply.

    Args:
        single: seconds of a pass without drafts, timed behind 100 tokens.
        passes: drafts, accepted ones, and seconds.
        context: tokens of the prompt.
    """
    costs, now, head = PassCosts(), 0.0, Head()
    for _ in range(6):
        costs.add("", 0, single, 100)
    drafter = Drafter(head, None, costs, depth=3, clock=lambda: now)  # type: ignore[arg-type]
    drafter.begin([0] * context, 0)
    drafter.read([0], HIDDEN)
    for count, accepted, seconds in passes:
        drafter._depth = count
        drafter.draft(SAMPLER, EMPTY, 0)
        now += seconds
        drafter.read([0] * (accepted + 1), HIDDEN)
    return drafter


def test_the_speedup_is_that_of_the_passes_that_were_timed():
    """The first two, in which kernels are compiled, do not count."""
    passes = [(3, 0, 60.0), (3, 0, 60.0), (3, 3, 1.0), (3, 1, 2.0)]
    assert timed(1.0, passes, 100).speedup == pytest.approx(6 / 3.0)
    assert timed(0.25, passes, 100).speedup == pytest.approx(0.5)


def test_no_speedup_is_claimed_that_was_not_measured():
    assert timed(1.0, [(3, 3, 1.0)] * 2, 100).speedup is None
    assert timed(1.0, [(3, 3, 1.0)] * 3, 100).speedup is None  # one of three
    assert timed(1.0, [(3, 3, 1.0)] * 4, 100).speedup is not None
    assert timed(1.0, [(3, 3, 1.0)] * 9, 30_000).speedup is None
    assert Drafter(Head(), None, PassCosts()).speedup is None  # type: ignore[arg-type]


@pytest.mark.parametrize(("context", "again"), [(100, False), (3000, False), (9000, True)])
def test_passes_are_timed_again_at_another_length_of_context(context, again):
    costs = PassCosts()
    for _ in range(6):
        costs.add("", 0, 1.0, 100)
    drafter = Drafter(Head(), None, costs)  # type: ignore[arg-type]
    drafter.begin([0] * context, 0)
    assert drafter.wants_to_draft != again


def test_a_pass_that_a_new_beginning_drops_is_neither_counted_nor_timed():
    now, costs = 0.0, PassCosts()
    head: Any = Head()
    drafter = Drafter(head, None, costs, depth=3, clock=lambda: now)
    drafter.begin([1, 2], 1)
    for _ in range(4):
        drafter.read([0], HIDDEN)
    drafter.draft(SAMPLER, EMPTY, 4)
    now = 100.0
    drafter.begin([1, 2, 0, 0, 0, 0, 4, 5], 7)
    drafter.read([0], HIDDEN)
    assert (drafter.passes, drafter.drafted) == (0, 0)
    assert costs.seconds("", 0) == 0.0
