"""What the MTP head keeps in the cache: the same however a conversation came to its tokens."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.generation import drafts as drafting
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import CopyDrafts, MTPDrafts
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.cache import Cache, Snapshot
from tests.generation.test_drafts import GREEDY, SAMPLINGS, fixed, prefill_with, reply
from tests.goldens import expected, network

NAME = "dense"
PROMPT = expected(NAME)["prompt"].tolist()[-60:]


def net():
    return network(NAME, mtp=True)


def begun(prompt: list[int], cache: Cache) -> MTPDrafts:
    drafts = MTPDrafts(net(), cache)
    drafts.begin(prompt, cache.offset)
    return drafts


def snapshot_of(ids: list[int]) -> Snapshot:
    """Of a head that has read these tokens at once."""
    cache = net().make_cache()
    drafts = begun(ids, cache)
    prefill_with(NAME, [*ids, 0], cache, drafts)
    drafts.save()
    return cache.snapshot()


def assert_same_head(found: Snapshot, want: Snapshot) -> None:
    assert found.head is not None
    assert want.head is not None
    assert found.offset == want.offset
    assert found.head.kv.offset == want.head.kv.offset == want.offset - 1
    rows = (found.head.hidden, *found.head.kv.rows(0)), (want.head.hidden, *want.head.kv.rows(0))
    for one, other in zip(*rows, strict=True):
        np.testing.assert_allclose(np.array(one), np.array(other), atol=2e-4)


@pytest.mark.parametrize("stops", [[40], [1, 2, 50], [30, 59]])
def test_a_snapshot_within_the_prompt_does_not_hold_the_token_after_it(stops):
    cache = net().make_cache()
    drafts = begun(PROMPT, cache)
    for stop in stops:
        prefill_with(NAME, PROMPT, cache, drafts, stop)
        drafts.save()
        if stop > 1:
            assert_same_head(cache.snapshot(), snapshot_of(PROMPT[:stop]))
    prefill_with(NAME, PROMPT, cache, drafts)
    drafts.save()
    assert_same_head(cache.snapshot(), snapshot_of(PROMPT[:-1]))


def test_a_prompt_that_goes_on_otherwise_is_read_as_if_from_the_start():
    cache = net().make_cache()
    drafts = begun(PROMPT, cache)
    prefill_with(NAME, PROMPT, cache, drafts, 45)
    drafts.save()
    before = cache.snapshot()
    prefill_with(NAME, PROMPT, cache, drafts)
    branch = [*PROMPT[:45], 7, 8, 9, 10]
    for restored in (cache, net().make_cache()):
        restored.restore(before)
        other = begun(branch, restored)
        prefill_with(NAME, branch, restored, other)
        other.save()
        assert_same_head(restored.snapshot(), snapshot_of(branch[:-1]))


@pytest.fixture(scope="module")
def right() -> list[int]:
    """The reply without drafts."""
    return reply(NAME, GREEDY, None, prefill_with(NAME, PROMPT, net().make_cache()), 40)


class SomeRight(MTPDrafts):
    """Drafts of the head, replaced by ones of which a planned number is right."""

    def __init__(self, cache: Cache, right: Sequence[int]):
        super().__init__(net(), cache)
        self._right, self._hits = right, iter([2, 0, 4, 1, 3] * 5)

    def draft(self, count: int, sampler: Sampler, reply: mx.array, position: int) -> mx.array:
        own = super().draft(count, sampler, reply, position)
        planned = list(self._right[position : position + count])
        wrong = next(self._hits)
        planned[wrong] = (planned[wrong] + 1) % 256
        return mx.array(planned, mx.int32) + 0 * own


def assert_ends_at(tokens: int, right: list[int], drafter: Drafter, cache: Cache) -> None:
    assert reply(NAME, GREEDY, drafter, cache, tokens) == right[:tokens]
    drafter.save()
    assert_same_head(cache.snapshot(), snapshot_of([*PROMPT, *right[:tokens]]))


@pytest.mark.parametrize("tokens", range(1, 11))
def test_a_reply_may_end_anywhere_in_a_pass(tokens, right):
    """Within accepted drafts, at the token behind them, and where the next pass has drafts."""
    cache = net().make_cache()
    drafts = SomeRight(cache, right)
    prefill_with(NAME, PROMPT, cache, drafts)
    assert_ends_at(tokens, right, fixed(drafts, 5), cache)


@pytest.mark.parametrize("tokens", [1, 2, 5, 20])
def test_a_reply_may_end_where_the_head_does_not_draft(tokens, right):
    """Passes without drafts overlap, or have copied ones."""
    for copies in (None, CopyDrafts()):
        cache = net().make_cache()
        drafts, costs = MTPDrafts(net(), cache), PassCosts()
        for count in (0, 0, 0, 2, 2, 2):
            costs.add("copy" if count else "", count, 1e-6 if count else 1.0)
        drafter = Drafter(drafts, copies, costs)
        drafter.begin(PROMPT, 0)
        if copies is not None:
            copies.begin([*right, *PROMPT], 0)
        prefill_with(NAME, PROMPT, cache, drafts)
        drafter._pause_left = 1000
        assert_ends_at(tokens, right, drafter, cache)
        assert (drafter.accepted > 0) == (copies is not None and tokens >= 5)


def test_a_head_that_was_not_given_the_last_output_is_not_saved():
    """As where a turn ends with an error while a pass is waited for."""
    cache = net().make_cache()
    drafts = begun(PROMPT, cache)
    prefill_with(NAME, PROMPT, cache, drafts)
    net()(mx.array([[PROMPT[-1]]]), cache)
    drafts.save()
    assert cache.snapshot().head is None


def test_a_head_that_missed_tokens_is_in_no_snapshot():
    cache = net().make_cache()
    drafts = begun(PROMPT, cache)
    prefill_with(NAME, PROMPT, cache, drafts, 40)
    drafts.save()
    assert cache.snapshot().head is not None
    prefill_with(NAME, PROMPT, cache)
    assert cache.snapshot().head is None
    again = begun(PROMPT, cache)
    prefill_with(NAME, [*PROMPT, 5], cache, again, len(PROMPT))
    again.save()
    head = cache.snapshot().head
    assert head is not None
    assert head.kv.offset == 0


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_a_shortened_output_head_drafts_its_own_tokens_and_changes_no_reply(sampling, monkeypatch):
    monkeypatch.setattr(drafting, "SHORT_VOCAB", 128)
    monkeypatch.setattr(drafting, "RARE_SHARE", 2.0)
    want = reply(NAME, SAMPLINGS[sampling], None, prefill_with(NAME, PROMPT, net().make_cache()))
    cache = net().make_cache()
    drafts = begun(PROMPT, cache)
    prefill_with(NAME, PROMPT, cache, drafts)
    sampler = Sampler(SAMPLINGS[sampling], 256, seed=11)
    reply_so_far = mx.array([3, 200], mx.int32)
    assert max(drafts.draft(6, sampler, reply_so_far, 2).tolist()) < 128
    cache = net().make_cache()
    prefill_with(NAME, PROMPT, cache, drafts := begun(PROMPT, cache))
    assert reply(NAME, SAMPLINGS[sampling], fixed(drafts, 3), cache) == want


def test_the_shortened_head_is_for_texts_of_frequent_tokens(monkeypatch):
    monkeypatch.setattr(drafting, "SHORT_VOCAB", 128)
    drafts, hidden = MTPDrafts(net(), net().make_cache()), mx.ones((1, 1, net().config.hidden_size))
    sampler, empty = Sampler(Sampling(1.0, 1.0, 0), 256), mx.array([], mx.int32)

    def largest(token: int, reads: int) -> int:
        for _ in range(reads):
            drafts.read([token], hidden)
        return max(drafts.draft(40, sampler, empty, 0).tolist())

    assert largest(5, 1) >= 128
    assert largest(5, 300) < 128
    assert largest(200, 20) >= 128


@pytest.mark.parametrize("sampling", ["top-k", "all", "presence"])
def test_the_first_logits_alone_have_the_noise_of_all(sampling):
    """Where the others could not be drawn, all logits and the first alone give the same tokens."""
    logits = mx.array(np.random.default_rng(4).normal(size=(40, 96)), mx.float32)
    logits[:, 64:] = -1e9
    sampler = Sampler(SAMPLINGS[sampling], 96, seed=5)
    said = mx.array([3, 90, 70], mx.int32)
    whole, first = (sampler(one, said, 3) for one in (logits, logits[:, :64]))
    assert whole.tolist() == first.tolist()


def test_the_first_rows_of_a_matrix_are_not_copied():
    lm_head = net().lm_head
    mx.eval(lm_head.arrays)
    before = mx.get_active_memory()
    short = lm_head.first(128)
    mx.eval(short.arrays)
    assert mx.get_active_memory() - before < short.arrays[0].nbytes
    x = mx.ones((1, 3, net().config.hidden_size))
    np.testing.assert_allclose(np.array(short(x)), np.array(lm_head(x))[..., :128], atol=1e-5)


def test_a_head_that_begins_again_further_on_forgets_what_it_had_not_read():
    """Its rows would be taken for those of the tokens that follow."""
    caches = net().make_cache(), net().make_cache()
    interrupted = begun(PROMPT, caches[0])
    prefill_with(NAME, PROMPT, caches[0], interrupted, 20)
    snapshots = []
    for cache in caches:
        prefill_with(NAME, PROMPT, cache, None, 30)  # as shared passes do
        drafts = begun(PROMPT, cache) if cache is caches[1] else interrupted
        drafts.begin(PROMPT, 30)
        prefill_with(NAME, PROMPT, cache, drafts)
        drafts.save()
        snapshots.append(cache.snapshot().head)
    one, other = snapshots
    assert one.kv.offset == other.kv.offset == len(PROMPT) - 32
    for mine, its in zip(
        (one.hidden, *one.kv.rows(0)), (other.hidden, *other.kv.rows(0)), strict=True
    ):
        np.testing.assert_allclose(np.array(mine), np.array(its), atol=2e-4)
