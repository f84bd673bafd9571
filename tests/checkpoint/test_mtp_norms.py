"""How the norms of an MTP head are stored: from their values, and from trials on a text."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from qwen35_mlx import demo
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.mtp import head_norms
from qwen35_mlx.checkpoint.mtp_confirmation import confirm_head, network_agreement
from qwen35_mlx.checkpoint.mtp_norms import (
    NormReading,
    candidate_readings,
    confirm_norms,
    describe,
    infer_raw_norms,
)
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.evaluation.mtp import checkpoint_agreement
from qwen35_mlx.evaluation.text import built_in_texts, make_documents
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer
from tests.checkpoint.cases import demo_with_unmarked_head
from tests.goldens import FOLDER, expected, network

IN, POST, Q, K, FINAL, EMBEDDING, HIDDEN = (
    *(f"mtp.layers.0.{n}.weight" for n in ("input_layernorm", "post_attention_layernorm")),
    *(f"mtp.layers.0.self_attn.{n}.weight" for n in ("q_norm", "k_norm")),
    *(f"mtp.{n}.weight" for n in ("norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden")),
)
ALL = frozenset((IN, POST, Q, K, FINAL, EMBEDDING, HIDDEN))

# Means of w in heads, and the gain of the trunk's final norm, as measured or published.
HEADS = {
    "one": (
        {IN: 0.04, POST: 0.21, Q: 0.79, K: 0.78, FINAL: 1.25, EMBEDDING: -0.46, HIDDEN: -0.16},
        1.9,
    ),
    "dense": (
        {IN: 0.303, POST: 0.387, Q: 0.746, K: 0.734, FINAL: 2.58, EMBEDDING: -0.5, HIDDEN: -0.3},
        3.0,
    ),
    "sparse": (
        {IN: -0.095, POST: 0.2, Q: 0.73, K: 0.7, FINAL: 1.925, EMBEDDING: -0.727, HIDDEN: -0.506},
        2.0,
    ),
    "demo": (
        {
            IN: 0.124,
            POST: -0.191,
            Q: 0.477,
            K: 0.473,
            FINAL: -0.843,
            EMBEDDING: -0.096,
            HIDDEN: 0.079,
        },
        0.158,
    ),
    "untrained": (dict.fromkeys(ALL, 0.0), 1.0),
}


def values(means: dict[str, float], spread: float = 0.06) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(mean, spread, 256).astype(np.float32) for name, mean in means.items()}


def gain(mean: float) -> np.ndarray:
    return np.full(256, mean, np.float32)


@pytest.mark.parametrize("spread", [0.01, 0.06])
@pytest.mark.parametrize("name", HEADS)
def test_whole_heads(name: str, spread: float):
    means, final = HEADS[name]
    raw = values(means, spread)
    assert infer_raw_norms(raw, gain(final)) == ALL
    converted = {n: v + 1 for n, v in raw.items()}
    assert infer_raw_norms(converted, gain(final)) == frozenset()


@pytest.mark.parametrize(
    ("name", "converted"),
    [
        # Names that end in norm.weight.
        *((name, {IN, POST, Q, K, FINAL}) for name in HEADS),
        # The names that a converter of the trunk knows. In the first three heads, w of the final
        # norm is 1 to 3, as 1 + w may be.
        *((name, {IN, POST, Q, K}) for name in ("demo", "untrained")),
        *((name, {EMBEDDING, HIDDEN}) for name in ("sparse", "demo", "untrained")),
    ],
)
def test_mixed_heads(name: str, converted: set[str]):
    means, final = HEADS[name]
    if name == "sparse":  # the gains before fc may be w as well: they follow
        means = means | {EMBEDDING: -0.4, HIDDEN: -0.3}
    mixed = {n: v + (n in converted) for n, v in values(means).items()}
    assert infer_raw_norms(mixed, gain(final)) == ALL - converted


@pytest.mark.parametrize("layers_are_raw", [False, True])
def test_what_may_be_either_follows_the_layer_norms(layers_are_raw: bool):
    shift = 0 if layers_are_raw else 1
    mixed = values(
        {IN: 0.1 + shift, POST: shift, Q: 0.7, K: 0.8, FINAL: 2, EMBEDDING: 0.3, HIDDEN: 0.4}
    )
    assert infer_raw_norms(mixed, gain(2)) == (ALL if layers_are_raw else frozenset())


def test_a_small_final_norm_like_the_trunks_is_a_gain_whatever_the_layer_norms_are():
    mixed = values(HEADS["one"][0] | {FINAL: 0.8})
    assert FINAL not in infer_raw_norms(mixed, gain(0.75))
    for other in (0.6, 1.8, np.nan):
        assert FINAL in infer_raw_norms(mixed, gain(other))


def test_the_readings_that_are_tried_are_different():
    readings = candidate_readings(ALL, frozenset({IN}))
    assert len(readings) == len(set(readings)) == 7
    assert readings[:3] == (frozenset({IN}), ALL, frozenset())
    assert frozenset({IN, EMBEDDING, HIDDEN}) in readings
    assert frozenset({POST}) in readings
    assert len(candidate_readings(ALL, ALL)) == 6


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (ALL, "w"),
        (frozenset(), "1 + w"),
        (frozenset({Q, K}), "1 + w, but w in k_norm, q_norm"),
    ],
)
def test_a_reading_in_words(raw: frozenset[str], words: str):
    assert describe(raw, ALL) == words


def agrees(shares: dict[frozenset[str], float], other: float):
    """Agreements of so many of 400 positions, the same ones first."""

    def run(readings: Sequence[frozenset[str]]) -> list[np.ndarray]:
        return [np.arange(400) < 400 * shares.get(raw, other) for raw in readings]

    return run


def test_the_reading_that_guesses_best_is_kept_and_said():
    found = confirm_norms(ALL, ALL, agrees({frozenset(): 0.7}, 0.01))
    assert found.raw == frozenset()
    assert found.line == (
        "norms of the MTP head are read as 1 + w: it guesses 70% of the model's own tokens on 400 "
        "positions, read otherwise 1% at most"
    )


def test_a_group_that_is_read_wrongly_is_found():
    wrong = frozenset({Q, K})
    found = confirm_norms(ALL, wrong, agrees({frozenset(): 0.7}, 0.2))
    assert found.raw == frozenset()


def test_a_tie_and_a_difference_of_chance_leave_the_decision_to_the_values():
    for best in (0.3, 0.3075):
        found = confirm_norms(ALL, ALL, agrees({frozenset(): best}, 0.3))
        assert found.raw == ALL
        assert found.line.endswith(
            "that does not tell the readings apart, and the values of the norms decide"
        )


def test_a_group_that_hardly_matters_is_no_tie():
    found = confirm_norms(ALL, frozenset(), agrees({ALL: 0.0}, 0.7))
    assert "apart" not in found.line


def documents(tokens: int = 256) -> list[list[int]]:
    tokenizer = Tokenizer.from_files(TextFiles.from_folder(demo.folder()))
    return make_documents(tokenizer, built_in_texts()[3:], tokens)


@pytest.mark.parametrize("raw", [False, True])
def test_a_trained_head_that_is_read_wrongly_is_put_right(
    tmp_path: Path, raw: bool, monkeypatch: pytest.MonkeyPatch
):
    # The text is foreign to the demo model, but enough for this.
    monkeypatch.setattr("qwen35_mlx.checkpoint.mtp_confirmation.check_accuracy", lambda *_: None)
    checkpoint = open_checkpoint(demo_with_unmarked_head(tmp_path / "m", raw=raw))
    names = head_norms(checkpoint.model)
    right, wrong = (names, frozenset()) if raw else (frozenset(), names)
    assert checkpoint.mtp_norms == NormReading(right, certain=False)
    misread = checkpoint.with_mtp_norms(wrong)
    misread.mtp_norms = NormReading(wrong, certain=False)
    lines: list[str] = []
    net = load_network(misread, "float32", lines.append, mtp=True, mtp_documents=documents())
    (line,) = [line for line in lines if "norms of the MTP head" in line]
    kept = np.array(net.mtp.hidden_norm.weight)  # type: ignore[union-attr]
    np.testing.assert_allclose(kept, np.array(checkpoint.read(HIDDEN)), atol=1e-6)
    assert f"read as {describe(right, names)}: " in line


def test_a_text_that_the_model_cannot_predict_decides_nothing():
    checkpoint = open_checkpoint(demo.folder())
    misread = checkpoint.with_mtp_norms(frozenset())
    misread.mtp_norms = NormReading(frozenset(), certain=False)
    lines: list[str] = []
    net = load_network(misread, "float32", lines.append, mtp=True, mtp_documents=documents())
    assert not any("MTP" in line for line in lines)
    kept = np.array(net.mtp.hidden_norm.weight)  # type: ignore[union-attr]
    np.testing.assert_allclose(kept, np.array(misread.read(HIDDEN)), atol=1e-6)


def test_a_head_of_which_the_files_leave_no_doubt_is_not_tried():
    checkpoint = open_checkpoint(FOLDER / "dense")
    assert checkpoint.mtp_norms is not None
    assert checkpoint.mtp_norms.certain

    def never(_: object) -> list[np.ndarray]:
        raise AssertionError

    assert confirm_head(checkpoint, never) == (checkpoint, None)


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_agreement_is_that_of_the_reference_logits(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("qwen35_mlx.checkpoint.mtp_confirmation._POSITIONS", 7)
    monkeypatch.setattr("qwen35_mlx.evaluation.logits.BLOCK_ELEMENTS", 1 << 12)
    want, checkpoint = expected(name), open_checkpoint(FOLDER / name)
    prompt = np.array(want["prompt"]).tolist()
    own = np.array(want["prefill_logits"]).argmax(-1)
    guesses = np.array(want["mtp_logits"]).argmax(-1)
    texts = [[1, 2], prompt, prompt[:20]]
    readings = [checkpoint, checkpoint.with_mtp_norms(frozenset())]
    agreed, wrong = network_agreement(network(name), texts, 0)(readings)
    assert agreed.shape == (len(prompt) - 2 + 18,)
    assert np.array_equal(agreed[: len(prompt) - 2], guesses[:-1] == own[1:-1])
    assert not np.array_equal(agreed, wrong)
    for one, other in zip(
        checkpoint_agreement(checkpoint, texts, 0)(readings), (agreed, wrong), strict=True
    ):
        assert np.array_equal(one, other)
    assert [a.size for a in checkpoint_agreement(checkpoint, [[1, 2]], 0)(readings)] == [0, 0]
