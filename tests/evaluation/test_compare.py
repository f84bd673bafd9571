"""Comparisons against whole networks and float64: perplexity, KL, agreement, errors of tensors."""

import math

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.tensor_readers import ComputedRows
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.compare import Comparison, compare_checkpoints
from qwen35_mlx.evaluation.layers import Passage, Trunk, plain_rows
from qwen35_mlx.evaluation.tensors import tensor_errors, tensor_kind
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.weight_shapes import trunk_tensors
from tests.checkpoint import cases
from tests.checkpoint.cases import Tensors
from tests.evaluation.test_logits import kl, log_softmax
from tests.goldens import FOLDER, NAMES

RNG = np.random.default_rng(5)
DOCUMENTS = [RNG.integers(0, 100, length).tolist() for length in (70, 3, 2, 41)]
GROUP = 32

# Of models with random weights, on any text.
FOREIGN = (
    "{} predicts this text worse than a guess among its 256 tokens would, so these figures say "
    "little: --text FILE measures on text of the model's own kind"
)


def noisy(name: str, folder, amount: float = 0.02, **changes: mx.array) -> Checkpoint:
    """A golden checkpoint with noise on its matrices."""
    config, tensors = cases.golden(name)
    rng = np.random.default_rng(6)
    for key, value in tensors.items():
        if value.ndim >= 2:
            tensors[key] = value + mx.array(rng.normal(0, amount, value.shape).astype("f"))
    return open_checkpoint(cases.write(folder, config, tensors | changes))


def quantised(name: str, folder) -> Checkpoint:
    """A golden checkpoint in mlx-lm's layout, its matrices in 4 bits where rows divide."""
    config, tensors = cases.golden(name)
    config["quantization"] = {"group_size": GROUP, "bits": 4}
    packed: Tensors = {}
    for key, value in cases.mlx_layout(tensors).items():
        module = key.removesuffix(".weight")
        if value.ndim < 2 or "conv1d" in key or value.shape[-1] % GROUP:
            packed[key] = value
            continue
        parts = mx.quantize(value, GROUP, 4)
        packed |= {f"{module}.{part}": p for part, p in zip(PARTS, parts, strict=True)}
    return open_checkpoint(cases.write(folder, config, packed))


PARTS = ("weight", "scales", "biases")


def opened(name: str) -> Checkpoint:
    return open_checkpoint(FOLDER / name)


def whole_logits(checkpoint: Checkpoint) -> list[np.ndarray]:
    """Logits of the positions of each document that have a next token, by the whole network."""
    net = load_network(checkpoint, dtype="float32", notice=lambda _: None)
    return [
        np.array(net.logits(net(mx.array([ids]), net.make_cache()))[0])[:-1] for ids in DOCUMENTS
    ]


def check(result: Comparison, a: Checkpoint, b: Checkpoint) -> None:
    """Compare with the same figures by definition, from whole logits in float64."""
    of_a, of_b = (np.concatenate(whole_logits(one)) for one in (a, b))
    targets = np.concatenate([ids[1:] for ids in DOCUMENTS])
    at = np.arange(len(targets))
    losses = [-log_softmax(x)[at, targets] for x in (of_a, of_b)]
    assert result.tokens == len(targets) == 112
    for model, loss in zip((result.a, result.b), losses, strict=True):
        assert model.perplexity == pytest.approx(math.exp(loss.mean()), rel=1e-5)
        error = math.exp(loss.mean()) * loss.std(ddof=1) / math.sqrt(len(loss))
        assert model.perplexity_error == pytest.approx(error, rel=1e-4)
    difference = losses[1] - losses[0]
    assert result.loss_difference == pytest.approx(difference.mean(), abs=1e-5)
    assert result.loss_difference_error == pytest.approx(
        difference.std(ddof=1) / math.sqrt(len(difference)), rel=1e-3
    )
    divergence = kl(of_a, of_b)
    found = result.divergence
    assert found.mean == pytest.approx(divergence.mean(), rel=1e-3)
    assert found.median == pytest.approx(np.median(divergence), rel=1e-3)
    assert found.p99 == pytest.approx(np.quantile(divergence, 0.99), rel=1e-3)
    assert found.largest == pytest.approx(divergence.max(), rel=1e-3)
    assert found.top1 == (of_a.argmax(-1) == of_b.argmax(-1)).mean()


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_whole_networks(name, tmp_path):
    a, b = opened(name), noisy(name, tmp_path / "noisy")
    result = compare_checkpoints(a, b, DOCUMENTS)
    check(result, a, b)
    assert len(result.hidden_errors) == len(a.model.layer_types)
    assert 0 < result.hidden_errors[0] < result.hidden_errors[-1]
    assert result.notes == (FOREIGN.format("A"),)


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_figures_of_a_quantised_model(name, tmp_path):
    a, b = opened(name), quantised(name, tmp_path / "quantised")
    result = compare_checkpoints(a, b, DOCUMENTS)
    check(result, a, b)
    name = "self_attn.o_proj"
    squares = np.zeros(2)
    for i, kind in enumerate(a.model.layer_types):
        if kind == "full_attention":
            value = a.read(f"model.layers.{i}.{name}.weight").astype(mx.float32)
            back = mx.dequantize(*mx.quantize(value, GROUP, 4), GROUP, 4)
            both = [np.array(x, np.float64) for x in (value - back, value)]
            squares += [np.square(x).sum() for x in both]
    assert result.tensor_errors[name] == pytest.approx(math.sqrt(squares[0] / squares[1]), rel=1e-5)
    assert result.tensor_errors["norm"] == 0


def test_small_blocks_change_nothing(tmp_path, monkeypatch):
    a, b = opened("moe"), noisy("moe", tmp_path / "noisy")
    want = compare_checkpoints(a, b, DOCUMENTS)
    monkeypatch.setattr("qwen35_mlx.evaluation.logits.BLOCK_ELEMENTS", 997)
    monkeypatch.setattr("qwen35_mlx.evaluation.tensors.BLOCK_ELEMENTS", 997)
    got = compare_checkpoints(a, b, DOCUMENTS)
    assert got.divergence.mean == pytest.approx(want.divergence.mean, rel=1e-4)
    assert got.a.perplexity == pytest.approx(want.a.perplexity, rel=1e-6)
    assert got.tensor_errors == pytest.approx(want.tensor_errors, rel=1e-5)


@pytest.mark.parametrize(("name", "chunk"), [("dense", 13), ("moe", 13), ("dense-yarn", 512)])
def test_layer_by_layer_is_the_network(name, chunk):
    checkpoint = opened(name)
    trunk = Trunk(checkpoint, [Passage(ids, chunk) for ids in DOCUMENTS], "A")
    for index in range(trunk.layers):
        trunk.advance(index)
    trunk.finish()
    net = load_network(checkpoint, dtype="float32")
    for hidden, ids in zip(trunk.hidden, DOCUMENTS, strict=True):
        want = np.array(net(mx.array([ids]), net.make_cache()))
        np.testing.assert_allclose(np.array(hidden), want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("length", [60, 620])
def test_a_model_and_itself_differ_by_the_floor(length):
    documents = [np.random.default_rng(8).integers(0, 100, length).tolist()]
    result = compare_checkpoints(opened("dense"), opened("dense"), documents)
    assert result.divergence.largest < 1e-12
    assert result.divergence.top1 == 1
    assert 0 < result.floor.largest < 1e-5  # in other chunks, so rounding differs
    assert result.floor.top1 > 0.98
    assert set(result.tensor_errors.values()) == {0.0}


@pytest.mark.parametrize("other", ["moe", "moe-tied-wide-heads"])
def test_models_of_different_shapes_compare(other):
    a, b = opened("dense"), opened(other)
    result = compare_checkpoints(a, b, DOCUMENTS, names=("small", "large"))
    check(result, a, b)
    assert result.hidden_errors == ()
    assert result.tensor_errors == {}
    assert "different shapes" in " ".join(result.notes)


def test_padding_of_one_vocabulary_is_left_out(tmp_path):
    config, tensors = cases.golden("dense-tied-wide-heads")
    embeddings = "model.language_model.embed_tokens.weight"
    padding = mx.full((64, tensors[embeddings].shape[1]), 9.0)
    vocab = tensors[embeddings].shape[0]
    tensors[embeddings] = mx.concatenate([tensors[embeddings], padding])
    config["text_config"]["vocab_size"] = vocab + 64
    padded = open_checkpoint(cases.write(tmp_path / "padded", config, tensors))
    result = compare_checkpoints(opened("dense-tied-wide-heads"), padded, DOCUMENTS)
    assert result.divergence.largest < 1e-6
    assert f"the first {vocab:,} tokens" in result.notes[0]


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_the_mtp_head_is_compared_with_its_own_trunk(name, tmp_path):
    a, b = opened(name), noisy(name, tmp_path / "noisy", 0.3)
    documents = [ids[:16] for ids in DOCUMENTS]
    result = compare_checkpoints(a, b, documents)
    for checkpoint, model in ((a, result.a), (b, result.b)):
        guesses, own = mtp_guesses(checkpoint, documents)
        assert model.mtp_agreement == pytest.approx((guesses == own).mean())


def mtp_guesses(
    checkpoint: Checkpoint, documents: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Greedy guesses of the head about tokens two ahead, token by token, and the trunk's own."""
    net = load_network(checkpoint, dtype="float32", mtp=True, notice=lambda _: None)
    assert net.mtp is not None
    guesses, own = [], []
    for ids in documents:
        trunk, head = net.make_cache(), KVCache()
        hidden = net(mx.array([[ids[0]]]), trunk)
        for t in range(len(ids) - 2):
            guess = net.mtp(hidden, net.embed(mx.array([[ids[t + 1]]])), head)
            guesses.append(mx.argmax(net.logits(guess)).item())
            hidden = net(mx.array([[ids[t + 1]]]), trunk)
            own.append(mx.argmax(net.logits(hidden)).item())
    return np.array(guesses), np.array(own)


def test_a_model_without_an_mtp_head_has_no_agreement(tmp_path):
    config, tensors = cases.golden("dense")
    trunk = {name: value for name, value in tensors.items() if not name.startswith("mtp.")}
    b = open_checkpoint(cases.write(tmp_path / "trunk", config, trunk))
    result = compare_checkpoints(opened("dense"), b, DOCUMENTS, names=("this", "that"))
    assert result.a.mtp_agreement is not None
    assert result.b.mtp_agreement is None
    assert result.notes == ("only this has an MTP head", FOREIGN.format("this"))
    assert not any(kind.startswith("mtp.") for kind in result.tensor_errors)


@pytest.mark.parametrize("tensor", ["layers.1.mlp.up_proj.weight", "norm.weight"])
def test_weights_that_are_not_finite_are_named(tensor, tmp_path):
    config, tensors = cases.golden("dense")
    key = f"model.language_model.{tensor}"
    tensors[key] = mx.where(mx.arange(tensors[key].shape[-1]) == 3, mx.inf, tensors[key])
    bad = open_checkpoint(cases.write(tmp_path / "bad", config, tensors))
    with pytest.raises(Qwen35Error) as caught:
        compare_checkpoints(opened("dense"), bad, DOCUMENTS, names=("good", "bad"))
    assert f"bad: tensor 'model.{tensor}' has values that are not finite" in str(caught.value)


@pytest.mark.parametrize("tensor", ["layers.1.mlp.up_proj.weight", "norm.weight"])
def test_activations_that_are_not_finite_are_placed(tensor, tmp_path):
    # Finite weights whose products are too large for float32.
    config, tensors = cases.golden("dense")
    key = f"model.language_model.{tensor}"
    large = mx.full(tensors[key].shape, 3e38)
    tensors[key] = mx.where(mx.arange(large.shape[-1]) % 2 == 0, large, -large)
    bad = open_checkpoint(cases.write(tmp_path / "bad", config, tensors))
    with pytest.raises(Qwen35Error) as caught:
        compare_checkpoints(opened("dense"), bad, DOCUMENTS, names=("good", "bad"))
    place = "layer 1 gives" if "layers" in tensor else "the output head gives"
    assert str(caught.value).startswith(f"bad: {place} values that are not finite")


def test_a_token_without_an_embedding_is_refused():
    with pytest.raises(Qwen35Error, match="token id 999999 is not in the vocabulary"):
        compare_checkpoints(opened("dense"), opened("dense"), [[1, 999_999]])


@pytest.mark.parametrize("documents", [[], [[1, 2], []], [[1]]])
def test_a_document_with_nothing_to_predict_is_refused(documents):
    with pytest.raises(Qwen35Error, match="no token to predict"):
        compare_checkpoints(opened("dense"), opened("dense"), documents)


@pytest.mark.parametrize(
    ("length", "cuts"), [(5, [0, 5]), (4, [0, 4]), (6, [0, 3, 6]), (11, [0, 3, 7, 11])]
)
def test_calls_are_of_equal_length(length, cuts):
    assert Passage(range(length), 5).cuts() == cuts


def test_progress_ends_at_its_total(tmp_path):
    calls: list[tuple[int, int, str]] = []
    a, b = opened("moe"), quantised("moe", tmp_path / "quantised")
    compare_checkpoints(a, b, DOCUMENTS, lambda *call: calls.append(call), ("X", "Y"))
    done, total, _ = zip(*calls, strict=True)
    assert list(done) == sorted(done)
    assert len(set(total)) == 1
    assert done[-1] == total[0] > done[-2]
    count = len(a.model.layer_types)
    assert {f"Y, layer {i + 1} of {count}" for i in range(count)} <= {what for *_, what in calls}


def test_memory_is_that_of_one_layer(tmp_path, monkeypatch):
    config, _ = cases.golden("dense-tied-wide-heads")
    kinds = ["linear_attention", "full_attention"] * 6
    config["text_config"] |= {
        "vocab_size": 1 << 15,
        "intermediate_size": 8192,
        "num_hidden_layers": len(kinds),
        "layer_types": kinds,
    }
    shapes = trunk_tensors(ModelConfig.from_dict(config))
    value = mx.array(0.01, mx.float16)
    tensors = {f"language_model.{n}": mx.broadcast_to(value, s) for n, s in shapes.items()}
    checkpoint = open_checkpoint(cases.write(tmp_path / "large", config, tensors))
    for module in ("logits", "tensors"):
        monkeypatch.setattr(f"qwen35_mlx.evaluation.{module}.BLOCK_ELEMENTS", 1 << 16)
    sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
    layer = sum(size for name, size in sizes.items() if name.startswith("model.layers.1."))
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    compare_checkpoints(checkpoint, checkpoint, [[5, 3, 60, 2, 2**15 - 1]])
    peak = mx.get_peak_memory() - before
    # While matrices are joined, they are there twice.
    assert layer < peak < 2 * layer + (2 << 20), (peak, layer)
    assert sizes["model.embed_tokens.weight"] > 2 * (1 << 20)
    assert 2 * layer + (2 << 20) < 0.25 * sum(sizes.values())


def test_only_the_rows_of_the_text_are_embedded(monkeypatch):
    checkpoint = opened("dense")
    reads: list[tuple[str, int, int]] = []
    plain = checkpoint.plain

    def recorded(name):
        reader = plain(name)

        def compute(start, stop):
            reads.append((name, start, stop))
            return reader.read(start, stop)

        return ComputedRows(reader.file, reader.shape, reader.dtype, compute)

    monkeypatch.setattr(checkpoint, "plain", recorded)
    trunk = Trunk(checkpoint, [Passage([7, 3, 90, 4, 3])], "A")
    assert [r[1:] for r in reads] == [(3, 5), (7, 8), (90, 91)]
    want = np.array(checkpoint.read("model.embed_tokens.weight").astype(mx.float32))[
        [7, 3, 90, 4, 3]
    ]
    np.testing.assert_array_equal(np.array(trunk.hidden[0][0]), want)


@pytest.mark.parametrize("mode", [("affine", 4, 32), ("mxfp4", 4, 32), ("nvfp4", 4, 16)])
def test_plain_rows_are_the_dequantised_ones(mode, tmp_path):
    name, bits, group = mode
    config, tensors = cases.golden("dense")
    config["quantization"] = {"group_size": group, "bits": bits, "mode": name}
    stored, key = cases.mlx_layout(tensors), "language_model.model.embed_tokens"
    parts = mx.quantize(stored.pop(f"{key}.weight"), group, bits, name)
    stored |= {f"{key}.{part}": p for part, p in zip(PARTS, parts, strict=False)}
    checkpoint = open_checkpoint(cases.write(tmp_path / "packed", config, stored))
    want = mx.dequantize(*parts, group_size=group, bits=bits, mode=name, dtype=mx.float32)
    got = plain_rows(checkpoint, "model.embed_tokens.weight", 5, 9)
    np.testing.assert_array_equal(np.array(got), np.array(want[5:9]))


def test_an_error_where_all_values_are_zero_is_infinite(tmp_path):
    config, tensors = cases.golden("dense")
    biases = [name for name in tensors if name.endswith("dt_bias")]
    zero = tensors | {name: mx.zeros_like(tensors[name]) for name in biases}
    a = open_checkpoint(cases.write(tmp_path / "a", config, zero))
    errors = tensor_errors(a, opened("dense"))
    assert errors["linear_attn.dt_bias"] == math.inf
    assert tensor_errors(a, a)["linear_attn.dt_bias"] == 0


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("model.layers.12.mlp.switch_mlp.down_proj.weight", "mlp.switch_mlp.down_proj"),
        ("model.layers.1.linear_attn.A_log", "linear_attn.A_log"),
        ("model.layers.1.linear_attn.norm.weight", "linear_attn.norm"),
        ("model.layers.1.input_layernorm.weight", "norm"),
        ("model.norm.weight", "norm"),
        ("model.embed_tokens.weight", "embed_tokens"),
        ("lm_head.weight", "lm_head"),
        ("mtp.layers.0.self_attn.o_proj.weight", "mtp.self_attn.o_proj"),
        ("mtp.pre_fc_norm_hidden.weight", "mtp.norm"),
        ("mtp.fc.weight", "mtp.fc"),
    ],
)
def test_kinds(name, kind):
    assert tensor_kind(name) == kind
