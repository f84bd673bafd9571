"""What the benchmark of recipes does to be fast changes nothing that it measures."""

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.opening import open_checkpoint
from scripts.benchmarks.recipe_models import RecipeNetworks, named_recipes, plain_tensors
from scripts.benchmarks.recipe_text import Question, Reference, Text, divergence, logits, replies
from scripts.demo_training.turns import Dialogue
from tests.random_model import write_weights

END = 511
REPLY = 7


@pytest.fixture(scope="module")
def networks(tmp_path_factory) -> RecipeNetworks:
    folder = tmp_path_factory.mktemp("model")
    write_weights(folder)
    checkpoint = open_checkpoint(folder)
    return RecipeNetworks(checkpoint.model, plain_tensors(checkpoint))


def ids(length: int) -> list[int]:
    return np.random.default_rng(length).integers(0, 500, length).tolist()


def greedy(networks: RecipeNetworks, prompt: list[int], end: int = END) -> list[int]:
    """A reply by whole forward passes, one for each token."""
    network, reply = networks.exact, []
    while len(reply) < REPLY and reply[-1:] != [end]:
        hidden = network(network.token_array(prompt + reply), network.make_cache())
        reply.append(int(mx.argmax(network.logits(hidden)[0, -1])))
    return reply


def question(prompt: list[int]) -> Question:
    return Question("none", Dialogue([], False, "none"), prompt, REPLY, [])


def test_unpacked_values_are_not_rounded_to_the_dtype_of_scales(networks):
    network = networks.network(named_recipes()["plain_8"])
    plain = networks.tensors["model.embed_tokens.weight"].astype(mx.bfloat16)
    with mx.stream(mx.cpu):
        packed, scales, biases = mx.quantize(plain, 64, 8)
    codes = np.array(packed).view(np.uint8).astype(np.float64)
    scales, biases = (
        np.repeat(np.array(part.astype(mx.float32), np.float64), 64, axis=-1)
        for part in (scales, biases)
    )
    found = np.array(network.embed_tokens.weight, np.float64)
    np.testing.assert_allclose(found, codes * scales + biases, rtol=0, atol=1e-6)


def test_a_recipe_with_other_formats_gives_another_network(networks):
    known = named_recipes()
    size = {name: networks.nbytes(known[name]) for name in ("3bit", "4bit", "bfloat16")}
    assert size["3bit"] < size["4bit"] < size["bfloat16"]
    searched, plain = (
        networks.network(known[name]).embed_tokens.weight
        for name in ("plain_4_searched", "plain_4")
    )
    assert not mx.array_equal(searched, plain)  # the store of packed matrices keeps them apart


def test_texts_of_different_lengths_in_one_batch_get_their_own_logits(networks):
    texts = [Text(ids(n), np.array([0, n // 2, n - 1])) for n in (40, 17, 23)]
    seen = []
    for batch, found in logits(networks.exact, texts, batch_tokens=80):
        seen.append(len(batch))
        for row, i in enumerate(batch):
            network, part = networks.exact, found[3 * row : 3 * row + 3]
            alone = network.logits(network(network.token_array(texts[i].ids), network.make_cache()))
            want = alone[0, mx.array(texts[i].positions)]
            assert mx.allclose(part, want, rtol=0, atol=1e-4)
    assert sorted(seen) == [1, 2]  # two share a batch, the longest would make it too large


@pytest.mark.parametrize("batch_tokens", [1, 1 << 14])
def test_the_exact_network_has_no_divergence_however_texts_are_batched(networks, batch_tokens):
    texts = [Text(ids(n), np.arange(n)) for n in (30, 9, 17)]
    divergences, same = Reference(networks.exact, texts).divergence(networks.exact, batch_tokens)
    assert len(divergences) == 56
    assert np.abs(divergences).max() < 1e-5
    assert same == 1


def test_drafts_change_no_reply(networks):
    prompts = [ids(n) for n in (5, 12, 31, 20, 8, 14)]
    wanted = [greedy(networks, prompt) for prompt in prompts]
    other = [(token + 1) % 500 for token in wanted[0]]
    drafts = [
        wanted[0],
        other,  # wrong from the first token on
        [*wanted[2][:3], *other[3:]],  # wrong in the middle
        wanted[3][:4],  # right, but ends early
        [END],
        [*wanted[5][:-1], END],  # wrong in its last token
    ]
    asked = [question(prompt) for prompt in prompts]
    assert replies(networks.exact, asked, drafts, END) == wanted


@pytest.mark.parametrize("right", [1, 4])
def test_a_reply_ends_with_its_end_token(networks, right):
    prompt = ids(31)
    end = greedy(networks, prompt)[3]
    wanted = greedy(networks, prompt, end)
    draft = [*wanted, 7][:right]  # the end token is found in the draft, or decoded
    assert len(wanted) < REPLY
    assert replies(networks.exact, [question(prompt)], [draft], end) == [wanted]


def test_a_small_divergence_is_not_lost_in_rounding():
    rng = np.random.default_rng(3)
    expected = rng.normal(20, 5, (50, 300)).astype(np.float32)
    found = (expected + rng.normal(3, 1e-3, expected.shape)).astype(np.float32)
    logs = [
        x - np.log(np.exp(x).sum(-1, keepdims=True))
        for x in (expected.astype(np.float64), found.astype(np.float64))
    ]
    wanted = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1)
    np.testing.assert_allclose(
        np.array(divergence(mx.array(expected), mx.array(found))), wanted, rtol=0.05, atol=1e-9
    )


def test_a_large_divergence_is_finite():
    expected, found = mx.array([[0.0, 200.0, 0.0]]), mx.array([[200.0, 0.0, 0.0]])
    assert divergence(expected, found).item() == pytest.approx(200, rel=1e-3)
