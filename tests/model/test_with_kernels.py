"""The whole network with kernels, in the emulator, against the same without."""

import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.converter import convert
from qwen35_mlx.kernels import decode_attention, gpu_kernel
from qwen35_mlx.kernels.selection import REFERENCE
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import operations
from scripts.support.random_weights import select_gpu_variants
from tests.goldens import FOLDER, NAMES, assert_logits, expected

PROMPT, STEPS = 20, 5
# 64 agree as well; they take a minute.
DEMO_STEPS = 8
DEMO = Path(qwen35_mlx.__file__).parent / "demo"


def use_kernels(net: Network, *, compiled: bool = False) -> None:
    packings = {op.packing for op in operations(net)} - {""}
    select_gpu_variants(net.selection, packings)
    assert net.selection.decode_attention != REFERENCE
    net.selection.compiled = compiled


def replies(
    net: Network, prompt: mx.array, steps: int = STEPS, kv_bits: int | None = None
) -> tuple[np.ndarray, list[int]]:
    """Logits of the prompt and of the greedy reply, and the reply's tokens."""
    cache = net.make_cache(kv_bits)
    rows = [net.logits(net(prompt[None], cache))[0]]
    tokens = []
    for _ in range(steps):
        tokens.append(int(mx.argmax(rows[-1][-1])))
        rows.append(net.logits(net(mx.array([tokens[-1:]]), cache))[0])
    return np.array(mx.concatenate(rows).astype(mx.float32)), tokens


def load_plain(path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str = "float32") -> Network:
    """A network without kernels. Loading it with kernels would first autotune them all."""
    monkeypatch.setenv(gpu_kernel.KERNELS_ENV, "reference")
    return load_network(open_checkpoint(path), dtype=dtype)


def launches_of_the_same_reply(
    net: Network,
    prompt: mx.array,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    kv_bits: int | None = None,
) -> list[str]:
    """Names of the kernels that a reply launches; checks that the reply is the same without."""
    with mx.stream(mx.cpu):  # a GPU multiplies no packed matrices as small as these
        plain, plain_tokens = replies(net, prompt, kv_bits=kv_bits)
    request.getfixturevalue("kernels")
    use_kernels(net)
    launched = []
    make = gpu_kernel.make_launcher
    monkeypatch.setattr(gpu_kernel, "make_launcher", lambda k: launched.append(k.name) or make(k))
    fast, fast_tokens = replies(net, prompt, kv_bits=kv_bits)
    assert fast_tokens == plain_tokens
    np.testing.assert_allclose(fast, plain, atol=1e-4)
    return launched


@pytest.mark.parametrize("name", NAMES)
def test_kernels_give_the_reference_logits(name, request, monkeypatch):
    want = expected(name)
    net = load_plain(FOLDER / name, monkeypatch)
    request.getfixturevalue("kernels")
    use_kernels(net)
    cache = net.make_cache()
    logits = net.logits(net(want["prompt"][None, :PROMPT], cache))[0]
    assert_logits(logits, want["prefill_logits"][:PROMPT])
    step = net.logits(net(want["prompt"][None, PROMPT : PROMPT + 1], cache))[0]
    assert_logits(step, want["prefill_logits"][PROMPT : PROMPT + 1])


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_a_pass_of_a_few_tokens_gives_the_reference_logits(name, request, monkeypatch):
    want = expected(name)
    net = load_plain(FOLDER / name, monkeypatch)
    request.getfixturevalue("kernels")
    use_kernels(net)
    cache = net.make_cache()
    net(want["prompt"][None, :PROMPT], cache)
    shapes, attend = [], decode_attention.kernel
    monkeypatch.setattr(
        decode_attention, "kernel", lambda q, *rest: shapes.append(q.shape[2]) or attend(q, *rest)
    )
    logits = net.logits(net(want["prompt"][None, PROMPT : PROMPT + 7], cache))[0]
    assert_logits(logits, want["prefill_logits"][PROMPT : PROMPT + 7])
    assert set(shapes) == {7}


@pytest.mark.parametrize("kv_bits", [None, 8])
@pytest.mark.parametrize("name", ["dense", "moe"])
def test_conversations_together_give_the_logits_of_each(name, kv_bits, request, monkeypatch):
    prompt = expected(name)["prompt"]
    net = load_plain(FOLDER / name, monkeypatch)
    lengths = [PROMPT, 3, 11]

    def read() -> list[Cache]:
        caches = [net.make_cache(kv_bits) for _ in lengths]
        for cache, length in zip(caches, lengths, strict=True):
            net(prompt[None, :length], cache)
        return caches

    tokens = mx.array([[5], [9], [2]])
    with mx.stream(mx.cpu):
        alone = [
            [net.logits(net(tokens[i : i + 1], cache))[0] for _ in range(2)]
            for i, cache in enumerate(read())
        ]
        mx.eval(alone)
    request.getfixturevalue("kernels")
    use_kernels(net)
    attended, attend = [], decode_attention.kernel
    monkeypatch.setattr(
        decode_attention, "kernel", lambda q, *rest: attended.append(len(q)) or attend(q, *rest)
    )
    caches, stacks = read(), net.make_stacks()
    together = [net.logits(net.together(tokens, caches, stacks)) for _ in range(2)]
    for i, rows in enumerate(alone):
        for one, all_rows in zip(rows, together, strict=True):
            # With 8 bits, a difference of rounding may be one of their steps.
            atol = 1e-4 if kv_bits is None else 1e-3
            np.testing.assert_allclose(np.array(all_rows[i]), np.array(one), atol=atol)
    assert set(attended) == {1}


@pytest.mark.parametrize("kv_bits", [None, 8])
def test_a_state_is_bit_identical_whether_its_last_rows_are_in_the_tail_or_not(
    kv_bits, request, monkeypatch
):
    """Straight after decoding, restored from a snapshot, and in another cache."""
    prompt = expected("dense")["prompt"]
    net = load_plain(FOLDER / "dense", monkeypatch)
    request.getfixturevalue("kernels")
    use_kernels(net)

    def read(cache: Cache, start: int, stop: int) -> np.ndarray:
        rows = [net.logits(net(prompt[None, i : i + 1], cache))[0] for i in range(start, stop)]
        return np.array(mx.concatenate(rows))

    cache, other = net.make_cache(kv_bits), net.make_cache(kv_bits)
    net(prompt[None, :PROMPT], cache)
    read(cache, PROMPT, PROMPT + 3)
    never_left = net.make_cache(kv_bits)
    net(prompt[None, :PROMPT], never_left)
    want = read(never_left, PROMPT, PROMPT + 6)[3:]
    state = cache.snapshot()
    for back in (cache, other, cache):
        back.restore(state)
        np.testing.assert_array_equal(read(back, PROMPT + 3, PROMPT + 6), want)


@pytest.mark.parametrize(
    ("kv_bits", "kernel"),
    [(None, "decode_attention_partial"), (4, None), (8, "decode_attention_partial_8bit")],
)
def test_each_kind_of_keys_is_read_by_its_own_kernel(kv_bits, kernel, request, monkeypatch):
    """The plain one would take packed words for keys. None reads 4 bits."""
    prompt = expected("dense")["prompt"][:PROMPT]
    net = load_plain(FOLDER / "dense", monkeypatch)
    launched = launches_of_the_same_reply(net, prompt, request, monkeypatch, kv_bits)
    assert "qk_norm_rope" in launched
    partial = {name for name in launched if name.startswith("decode_attention_partial")}
    assert partial == ({kernel} if kernel else set())


@pytest.mark.parametrize(
    ("kv_bits", "other"), [(None, "decode_attention_8bit"), (8, "decode_attention")]
)
def test_a_kernel_is_not_used_because_that_for_other_keys_was_selected(
    kv_bits, other, request, monkeypatch
):
    net = load_plain(FOLDER / "dense", monkeypatch)
    request.getfixturevalue("kernels")
    setattr(net.selection, other, decode_attention.KERNEL)
    monkeypatch.setattr(decode_attention, "kernel", None)
    replies(net, expected("dense")["prompt"][:PROMPT], 2, kv_bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_experts_through_kernels(
    bits, model_folder: Path, tmp_path: Path, monkeypatch, request
):
    out = tmp_path / "out"
    convert(model_folder, out, quantize=True, q_bits=bits, q_group_size=32, verify=False)
    prompt = expected("moe")["prompt"][:PROMPT]
    net = load_plain(out, monkeypatch)
    launched = launches_of_the_same_reply(net, prompt, request, monkeypatch)
    rule = {"delta_net_decode", "delta_net_inputs", "delta_net_rule", "delta_net_norm"}
    experts = {"experts_up_routed", "experts_down"}
    attention = {"qk_norm_rope", "decode_attention_partial", "decode_attention_merge"}
    assert set(launched) == rule | experts | attention | {"matvec"}


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_dense_layer_is_five_launches(
    bits, checkpoint: Path, tmp_path: Path, monkeypatch, request
):
    source, out = shutil.copytree(checkpoint, tmp_path / "source"), tmp_path / "out"
    shutil.copytree(FOLDER / "dense", source, dirs_exist_ok=True)
    convert(source, out, quantize=True, q_bits=bits, q_group_size=32, verify=False)
    prompt = expected("dense")["prompt"][:PROMPT]
    net = load_plain(out, monkeypatch)
    launched = launches_of_the_same_reply(net, prompt, request, monkeypatch)
    linear = ["matvec", "delta_net_decode", "matvec", "matvec", "matvec"]
    attention = ["qk_norm_rope", "decode_attention_partial", "decode_attention_merge"]
    full = ["matvec", *attention, "matvec", "matvec", "matvec"]
    step = [*3 * linear, *full, "matvec"]  # the last one is the output head
    assert launched[-len(step) :] == step


def test_the_demo_in_bfloat16_replies_the_same_with_kernels(request, monkeypatch):
    """Both round the same model: equal errors, and the same tokens."""
    net = load_plain(DEMO, monkeypatch, "bfloat16")
    demo = qwen35_mlx.load("demo", dtype="float32")
    question = "My name is Ada. What is 47 + 38? Then list three fruits."
    prompt = mx.array(demo.ids([{"role": "user", "content": question}]))
    plain, plain_tokens = replies(net, prompt, DEMO_STEPS)
    request.getfixturevalue("kernels")
    use_kernels(net)
    fast, fast_tokens = replies(net, prompt, DEMO_STEPS)
    assert fast_tokens == plain_tokens
    # Only where two logits round to nearly the same may another be the largest.
    best, second = np.sort(plain, axis=-1)[:, :-3:-1].T
    clear = best - second > 0.1
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(fast.argmax(-1)[clear], plain.argmax(-1)[clear])
    exact = demo.logits([*prompt.tolist(), *plain_tokens])
    assert np.abs(fast - exact).mean() < 1.2 * np.abs(plain - exact).mean()
