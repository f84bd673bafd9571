"""Turns of a chat with thinking, here and in mlx-lm: tokens prefilled and bytes written."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

import qwen35_mlx
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done
from scripts.support import report


def turns_of_ours(model: qwen35_mlx.Model, folder: Path, turns: int) -> Iterator[dict[str, Any]]:
    """Costs and reply of each turn of a stored chat in a new library in `folder`."""
    with Library(folder) as library:
        chat = Chat(model, library=library, thinking=True, temperature=0.0)
        states = model.open_states(folder)
        for turn in range(turns):
            bytes_, seconds = states.written_bytes, states.written_seconds
            done: Done | None = None
            for event in chat.send(_question(turn), max_tokens=150):
                done = event if isinstance(event, Done) else done
            assert done is not None
            states.flush()
            usage = done.usage
            yield {
                "prompt": usage.prompt_tokens,
                "prefilled": usage.prompt_tokens - usage.cached_tokens,
                "bytes": states.written_bytes - bytes_,
                "seconds": states.written_seconds - seconds,
                "message": done.message,
            }


def turns_of_mlx_lm(
    model: qwen35_mlx.Model, folder: Path, prompts: list[list[dict[str, Any]]]
) -> Iterator[dict[str, Any]]:
    """Costs of the same prompts in mlx-lm, with the cache that its chat keeps.

    A recurrent cache cannot be trimmed: it serves a prompt that begins with everything it holds,
    and is dropped otherwise.

    Args:
        prompts: the messages before each reply.
    """
    from mlx_lm import load
    from mlx_lm.generate import generate_step
    from mlx_lm.models.cache import can_trim_prompt_cache, make_prompt_cache, save_prompt_cache

    network: Any = load(str(model.path))[0]
    if mx.default_device() == mx.cpu:
        network.set_dtype(mx.float32)  # as in this package
    cache: Any = None
    held: list[int] = []
    for messages in prompts:
        prompt = model.render(messages, thinking=True)
        if cache is None or prompt[: len(held)] != held:
            if cache is not None:
                assert not can_trim_prompt_cache(cache)
            cache, held = make_prompt_cache(network), []
        rest = prompt[len(held) :]
        reply: list[int] = []
        for token, _ in generate_step(mx.array(rest), network, max_tokens=150, prompt_cache=cache):
            reply.append(int(token))
            if reply[-1] in model.eos:
                break
        held = prompt + reply
        started = time.perf_counter()
        save_prompt_cache(str(folder / "mlx_lm.safetensors"), cache)
        yield {
            "prompt": len(prompt),
            "prefilled": len(rest),
            "bytes": (folder / "mlx_lm.safetensors").stat().st_size,
            "seconds": time.perf_counter() - started,
        }


def _question(turn: int) -> str:
    return f"What is {17 + turn} + {60 - turn}?"


def compare(model: qwen35_mlx.Model, folder: Path, turns: int, peer: bool) -> dict[str, Any]:
    """Print a table of both, or of ours alone without `peer`; returns its rows by name."""
    ours = list(turns_of_ours(model, folder, turns))
    rows = [_row("ours", ours)]
    if peer:
        messages: list[dict[str, Any]] = []
        prompts = []
        for turn, one in enumerate(ours):
            messages.append({"role": "user", "content": _question(turn)})
            prompts.append(list(messages))
            messages.append(one["message"])
        rows.append(_row("mlx-lm", list(turns_of_mlx_lm(model, folder, prompts))))
    print(f"{turns} turns with thinking")
    report.print_table(rows)
    return {row["what"]: row for row in rows}


def _row(what: str, turns: list[dict[str, Any]]) -> dict[str, Any]:
    count = len(turns)
    return {
        "what": what,
        "prompt tokens, all turns": sum(t["prompt"] for t in turns),
        "prefilled, all turns": sum(t["prefilled"] for t in turns),
        "prefilled, last turn": turns[-1]["prefilled"],
        "MB saved a turn": sum(t["bytes"] for t in turns) / count / 1e6,
        "ms to save a turn": 1000 * sum(t["seconds"] for t in turns) / count,
    }
