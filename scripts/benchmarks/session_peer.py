"""mlx-lm's process of the long-prompt benchmark, with the same phases as `session_process`.

This is the best case of mlx-lm: every reply stays in the prompt as generated. When a template drops
the thinking of old replies, its cache no longer matches and the next prompt is prefilled whole.
"""

import argparse
import time
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint.hub import resolve_checkpoint
from scripts.benchmarks.session_process import QUESTION, REPLY, print_phase, prompt_tokens

PEER = "mlx-lm"


def run(args: argparse.Namespace) -> None:
    """Run the prompt and the turns of `session_process` in this process."""
    # Imported here so that the other processes do not wait for it.
    from mlx_lm import load
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import load_prompt_cache, make_prompt_cache, save_prompt_cache

    network: Any = load(str(resolve_checkpoint(args.model)))[0]
    if mx.default_device() == mx.cpu:
        network.set_dtype(mx.float32)
    cache: Any = make_prompt_cache(network)
    file = args.folder / "mlx_lm.safetensors"
    args.folder.mkdir(parents=True, exist_ok=True)

    def turn(ids: list[int], count: int) -> dict[str, Any]:
        started = time.perf_counter()
        stream = generate_step(mx.array(ids), network, max_tokens=count, prompt_cache=cache)
        reply = [int(next(stream)[0])]
        first = time.perf_counter() - started
        reply += [int(token) for token, _ in stream]
        rest = time.perf_counter() - started - first
        return {"first token s": first, "decode tok/s": (count - 1) / rest, "reply": reply}

    def save() -> dict[str, float]:
        started = time.perf_counter()
        save_prompt_cache(str(file), cache)
        took = time.perf_counter() - started
        return {"save s": took, "saved MB": file.stat().st_size / 1e6}

    done = turn(prompt_tokens(args.context), 1)
    seconds = done["first token s"]
    print_phase(
        "prefill", tokens=args.context, **{"prefill s": seconds, "tok/s": args.context / seconds}
    )
    print_phase("saved", **save())
    cache = None
    started = time.perf_counter()
    cache = load_prompt_cache(str(file))
    mx.eval([entry.state for entry in cache])
    print_phase("resume", **{"resume s": time.perf_counter() - started})
    for number in (1, 2):
        done = turn([done["reply"][-1], *prompt_tokens(QUESTION)], REPLY)
        print_phase(f"turn {number}", **done, **save())
