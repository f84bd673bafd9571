"""Single operations beside other implementations: `python -m scripts.benchmarks.kernels`.

Sections (`--only`):

- `launches`: GPU launches of a layer at one token (on a CPU, MLX splits some operations);
- `rule`: the delta recurrence over a long prompt;
- `delta`: decoding one token with a Gated DeltaNet mixer and with its whole layer;
- `experts`: a sparse MoE block at a few tokens;
- `prefill`: the same block over a long prompt;
- `sampling`: sampling one token.

Peers in the same run: mlx-lm on the same weights, `mx.fast`, and FLA's Triton kernels if torch and
a CUDA GPU are present. Prints a table per section and ends in one JSON line.
"""

import argparse
import functools
from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.kernels import delta_net, gpu_kernel
from qwen35_mlx.kernels.autotune import median_seconds
from qwen35_mlx.kernels.delta_net_reference import gated_delta_rule
from qwen35_mlx.kernels.norm import RMSNorm
from qwen35_mlx.kernels.selection import KernelSelection
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.cache import DeltaState
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.moe import SparseMoE
from qwen35_mlx.model.weights import Weights
from scripts.benchmarks import graph_launches
from scripts.support import report
from scripts.support.delta_inputs import DeltaCase, LayerCase
from scripts.support.mlx_lm_peer import mlx_lm_layer
from scripts.support.random_weights import (
    SHAPES,
    RandomSource,
    random_source,
    select_gpu_variants,
)

Row = dict[str, Any]
# With more tokens, mlx-lm's sparse MoE block fails on CUDA.
MAX_MOE_TOKENS = 4096
CHAIN = 20  # calls evaluated together, so that launches overlap as in decoding


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large copy."""
    x = mx.zeros((1 << 28,), mx.float32)
    mx.eval(x)
    return 2 * 4 * x.nbytes / median_seconds(lambda: [x + i for i in range(4)])


def time_all(calls: dict[str, Callable[[], Any]]) -> list[Row]:
    """One row per call; a call that fails is printed and left out."""
    rows: list[Row] = []
    for name, call in calls.items():
        try:
            rows.append({"what": name, "ms": 1000 * median_seconds(call)})
        except Exception as error:  # a peer may not run on this device
            print(f"{name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    return rows


def delta_rule(tokens: int, key_heads: int, value_heads: int, slow: bool) -> list[Row]:
    """The recurrence over a prompt; "ours, layer" includes convolution, norms and gates."""
    case = LayerCase(tokens, 1, key_heads, value_heads, 128, mx.bfloat16)
    inputs = case.draw()
    drawn = DeltaCase(tokens, 1, key_heads, value_heads, 128, 128, (0.9, 1.0)).draw()
    q, k, v, g, beta, state = (mx.array(drawn[n]) for n in ("q", "k", "v", "g", "beta", "state"))
    half = [x.astype(mx.bfloat16) for x in (q, k, v)]
    mx.eval(inputs[:3], q, k, v, g, beta, state, half)
    calls: dict[str, Callable[[], Any]] = {}
    if gpu_kernel.backend():
        for name in delta_net.PREFILL_VARIANTS:
            selection = KernelSelection(delta_prefill=name)
            calls[f"ours, layer, {name}"] = functools.partial(delta_net.mix, *inputs, selection)
    calls["ours, chunked, plain MLX"] = lambda: gated_delta_rule(q, k, v, g, beta, state)
    if slow:
        from mlx_lm.models.gated_delta import gated_delta_ops

        fast: Any = mx.fast.gated_delta_update
        ops: Any = gated_delta_ops
        calls["mx.fast, float32"] = lambda: fast(q, k, v, mx.exp(g), beta, state)
        calls["mlx-lm, ops"] = lambda: ops(*half, mx.exp(g), beta, state)
    return time_all(calls) + fla_delta_rule(drawn)


def fla_delta_rule(drawn: dict[str, np.ndarray]) -> list[Row]:
    """The chunked kernel of flash-linear-attention in bfloat16, timed with CUDA events."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
        from fla.ops.gated_delta_rule import (  # pyright: ignore[reportMissingImports]
            chunk_gated_delta_rule,
        )
    except ImportError:
        return []
    if not torch.cuda.is_available():
        return []
    half = {n: torch.tensor(drawn[n], device="cuda").bfloat16() for n in ("q", "k", "v", "beta")}
    g = torch.tensor(drawn["g"], device="cuda")
    repeat = drawn["v"].shape[2] // drawn["q"].shape[2]
    q, k = (half[n].repeat_interleave(repeat, 2) for n in "qk")
    state = torch.tensor(drawn["state"], device="cuda").mT.contiguous()
    times = []
    for _ in range(10):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        chunk_gated_delta_rule(
            q, k, half["v"], g=g, beta=half["beta"], scale=1.0, initial_state=state,
            output_final_state=True,
        )  # fmt: skip
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return [{"what": "FLA, Triton, chunked", "ms": float(np.median(times[3:]))}]


def _first_layer(source: RandomSource) -> Weights:
    """Weights of layer 0, with the variants a GPU starts from."""
    weights = Weights(source.config, source)
    select_gpu_variants(weights.selection, source.packings)
    return weights.scope("model").scope("layers").scope(0)


def launches(shape: str) -> list[Row]:
    """GPU launches of one layer of each kind at one token."""
    source = random_source(shape)
    rows: list[Row] = []
    for kind in ("linear_attention", "full_attention"):
        both = {
            "ours": graph_launches.of_ours(source, kind),
            "mlx-lm": graph_launches.of_mlx_lm(shape, source.config.layer_types.index(kind)),
        }
        for name, counts in both.items():
            what = ", ".join(f"{n} {label}" for label, n in counts.most_common(6))
            row = {"what": f"{name}, {kind}", "launches": counts.total(), "most of them": what}
            rows.append(row)
    return rows


def _chain(x: mx.array, call: Callable[[mx.array], mx.array]) -> Callable[[], mx.array]:
    """`CHAIN` calls, each on the output of the one before."""

    def run() -> mx.array:
        y = x
        for _ in range(CHAIN):
            y = call(y)
        return y

    return run


def delta_net_decode(shape: str) -> list[Row]:
    """Time per token of a mixer and of its whole layer, over a chain of `CHAIN` tokens."""
    from mlx_lm.models.cache import ArraysCache

    source = random_source(shape)
    weights = _first_layer(source)
    weights.selection.compiled = gpu_kernel.backend() is not None
    layer = Layer("linear_attention", source.config, weights, make_rope(source.config))
    peer, _ = mlx_lm_layer(shape, 0)
    assert isinstance(layer.mixer, GatedDeltaNet)
    x = mx.random.normal((1, 1, source.config.hidden_size)).astype(mx.bfloat16)
    mx.eval(x)

    before = DeltaState(*layer.mixer.parameters.empty(1, source.dtype))
    mix = mx.compile(layer.mixer.__call__) if gpu_kernel.backend() else layer.mixer

    def mixer(y: mx.array) -> mx.array:
        assert before.conv is not None
        assert before.recurrent is not None
        y, before.conv, before.recurrent, _ = mix(y, before.conv, before.recurrent)
        return y

    state, peer_caches = DeltaState(), [ArraysCache(size=2) for _ in range(2)]
    rows = time_all(
        {
            "mixer, ours": _chain(x, mixer),
            "mixer, mlx-lm": _chain(x, lambda y: peer.linear_attn(y, None, peer_caches[0])),
            "layer, ours": _chain(x, lambda y: layer(y, state)),
            "layer, mlx-lm": _chain(x, lambda y: peer(y, None, peer_caches[1])),
        }
    )
    return [row | {"ms": row["ms"] / CHAIN} for row in rows]


def _moe(shape: str) -> tuple[Callable[[mx.array], mx.array], Callable[[mx.array], mx.array]]:
    """x + moe(norm(x)), ours and mlx-lm's."""
    source = random_source(shape)
    layer = _first_layer(source)
    eps = source.config.rms_norm_eps
    norm = RMSNorm(layer.array("post_attention_layernorm.weight"), eps)
    mine, peer = SparseMoE(source.config, layer.scope("mlp")), mlx_lm_layer(shape, 0)[0].mlp
    return lambda x: mine(x, norm, x), lambda x: x + peer(norm(x))


def moe_decode(shape: str) -> list[Row]:
    """A sparse MoE block with its norm and residual sum, at 1, 2 and 8 tokens.

    GB/s counts the weights of the selected experts once per token.
    """
    mine, peer = _moe(shape)
    source = random_source(shape)
    config = source.config
    inner = config.num_experts_per_tok * config.moe_intermediate_size
    inner += config.shared_expert_intermediate_size
    bandwidth = copy_bandwidth()
    block = mx.compile(mine) if gpu_kernel.backend() else mine
    rows: list[Row] = []
    for tokens in (1, 2, 8):
        x = mx.random.normal((1, tokens, config.hidden_size)).astype(source.dtype)
        mx.eval(x)

        timed = time_all({"ours": _chain(x, block), "mlx-lm": _chain(x, peer)})
        per_token = 3 * inner * config.hidden_size * (4 + 32 / 64) / 8
        for row in timed:
            row["ms"] /= CHAIN
            row |= {"tokens": tokens, "GB/s": per_token * tokens / row["ms"] / 1e6}
            row["of copy"] = row["GB/s"] * 1e9 / bandwidth
        rows += timed
    return rows


def moe_prefill(shape: str, tokens: int) -> list[Row]:
    """A sparse MoE block over a prompt."""
    mine, peer = _moe(shape)
    source = random_source(shape)
    config = source.config
    x = mx.random.normal((1, tokens, config.hidden_size)).astype(source.dtype)
    mx.eval(x)
    flops = 6 * tokens * config.hidden_size * config.moe_intermediate_size
    flops *= config.num_experts_per_tok + 1
    rows = time_all({"ours": lambda: mine(x), "mlx-lm": lambda: peer(x)})
    return [row | {"tokens": tokens, "TFLOP/s": flops / row["ms"] / 1e9} for row in rows]


def sampling(shape: str) -> list[Row]:
    """One token sampled as the model card advises for thinking, without its presence penalty."""
    from mlx_lm import sample_utils

    vocab = random_source(shape).config.vocab_size
    logits = (3 * mx.random.normal((vocab,))).astype(mx.bfloat16)
    history = mx.array([], mx.int32)
    mx.eval(logits, history)
    advised = Sampling(temperature=1.0, top_p=0.95, top_k=20)
    peer = sample_utils.make_sampler(temp=1.0, top_p=0.95, top_k=20)

    def mlx_lm(logits: mx.array, _: mx.array) -> mx.array:
        logits = logits.astype(mx.float32)[None]
        return peer(logits - mx.logsumexp(logits, axis=-1, keepdims=True))

    samplers = {
        "ours": Sampler(advised, vocab),
        "mlx-lm": mlx_lm,
        "the likeliest": Sampler(Sampling(temperature=0.0), vocab),
    }
    return time_all({n: functools.partial(s, logits, history) for n, s in samplers.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    sections = ("launches", "rule", "delta", "experts", "prefill", "sampling")
    parser.add_argument("--only", choices=sections, nargs="+", default=sections)
    parser.add_argument("--shape", choices=SHAPES, default="35b-a3b")
    parser.add_argument("--tokens", type=int, default=8192, help="length of the prompt")
    parser.add_argument("--slow", action="store_true", help="include peers that take seconds")
    args = parser.parse_args()
    config = random_source(args.shape).config
    jobs: dict[str, Callable[[], list[Row]]] = {
        "launches": lambda: launches(args.shape),
        "rule": lambda: delta_rule(
            args.tokens, config.linear_num_key_heads, config.linear_num_value_heads, args.slow
        ),
        "delta": lambda: delta_net_decode(args.shape),
        "experts": lambda: moe_decode(args.shape),
        "prefill": lambda: moe_prefill(args.shape, min(args.tokens, MAX_MOE_TOKENS)),
        "sampling": lambda: sampling(args.shape),
    }
    results = {}
    for name in args.only:
        print(f"\n{name} ({args.shape})")
        results[name] = jobs[name]()
        report.print_table(results[name])
    rows = [{"section": name} | row for name, rows in results.items() for row in rows]
    kernels = gpu_kernel.backend()
    report.print_json("kernels", rows, shape=args.shape, tokens=args.tokens, kernels=kernels)


if __name__ == "__main__":
    main()
