"""The processes of the long-prompt benchmark, started one after the other by `session`.

`first` prefills a prompt, saves a snapshot and runs two turns; `again` restores that snapshot in a
new process and runs the same turns. Each phase prints one JSON line as soon as it ends, so that
results survive a later phase that fails or takes too long. Works on token ids, without a tokenizer.
"""

import argparse
import hashlib
import json
import os
import statistics
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from qwen35_mlx.checkpoint.hub import resolve_checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.model.attention import Attention
from qwen35_mlx.model.cache import Cache, DeltaState
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.prompt_cache import fingerprint
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.snapshots import CHECKPOINT_TOKENS
from qwen35_mlx.session import memory
from scripts.support.random_weights import RandomSource, random_network, random_source

REPLY = 16  # tokens of a reply
QUESTION = 50  # tokens of a question
SHORT = 2048  # tokens in the cache when the first token is timed for comparison
REPEATS = 3
SAMPLE = 512  # bytes of each random tensor that go into the fingerprint


def prompt_tokens(count: int) -> list[int]:
    """Ids below 1900 in a fixed, irregular order."""
    return [(i * 7919 + i * i) % 1900 for i in range(count)]


def long_position(context: int) -> int:
    """Tokens in the cache when the first token is timed again: 204,800 of 262,144."""
    return context * 25 // 32


def print_phase(phase: str, **values: Any) -> None:
    """Print the measurements of a phase as one JSON line."""
    print(json.dumps({"phase": phase, **values}), flush=True)


def load(args: argparse.Namespace) -> tuple[Network, str]:
    """The network and a hash of its weights."""
    if args.shape:
        source = random_source(args.shape, args.bits)
        if mx.default_device() == mx.cpu:
            # As for a checkpoint: half precision is tens of times slower on a CPU.
            source = RandomSource(source.config, args.bits, mx.float32)
        return random_network(source), _hash(source)
    checkpoint = open_checkpoint(resolve_checkpoint(args.model))
    longer = args.context if args.context > checkpoint.model.max_position_embeddings else None
    network = load_network(checkpoint, None, None, context=longer)
    return network, fingerprint.of_weights(checkpoint.files)


def _hash(source: RandomSource) -> str:
    """Hash of the names, shapes, types and first `SAMPLE` bytes of all tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(source.names()):
        array = source.read(name)
        start = mx.view(array.reshape(-1), mx.uint8)[:SAMPLE]
        digest.update(f"{name} {array.shape} {array.dtype}".encode() + np.array(start).tobytes())
    return digest.hexdigest()


def run_turn(network: Network, cache: Cache, ids: list[int], chunk: int) -> dict[str, Any]:
    """Prefill the ids beyond the cache and decode a reply; returns times and the reply."""
    started = time.perf_counter()
    for _ in prefill(network, cache, ids[cache.offset : -1], chunk):
        pass
    stream = decode(
        network, cache, ids[-1:], Sampler(Sampling(temperature=0), network.config.vocab_size)
    )
    reply = [next(stream)]
    first = time.perf_counter() - started
    reply += [next(stream) for _ in range(REPLY - 1)]
    rest = time.perf_counter() - started - first
    stream.close()
    return {"first token s": first, "decode tok/s": (REPLY - 1) / rest, "reply": reply}


def attention_seconds(network: Network, cache: Cache) -> float:
    """Time of attention alone until a first token: `QUESTION` - 1 queries, then one."""
    config = network.config
    started = time.perf_counter()
    for count in (QUESTION - 1, 1):
        for layer, entry in zip(network.layers, cache.layers, strict=True):
            if isinstance(layer.mixer, Attention) and isinstance(entry, KVCache):
                shape = (count, config.head_dim)
                q = mx.ones((1, config.num_attention_heads, *shape), network.dtype)
                kv = mx.ones((1, config.num_key_value_heads, *shape), network.dtype)
                mx.eval(layer.mixer.attend(q, mx.stack([kv, kv]), entry))
    return time.perf_counter() - started


def first_token(network: Network, cache: Cache, ids: list[int], chunk: int) -> dict[str, float]:
    """Median times of a turn of `QUESTION` tokens after `ids`; restores the cache."""
    snapshot, turns, attention = cache.snapshot(), [], []
    for _ in range(REPEATS + 1):
        turns.append(run_turn(network, cache, [*ids, *prompt_tokens(QUESTION)], chunk))
        cache.restore(snapshot)
        attention.append(attention_seconds(network, cache))
        cache.restore(snapshot)
    # The first turn is left out: it may compile, or grow buffers.
    medians = {
        name: statistics.median(turn[name] for turn in turns[1:])
        for name in ("first token s", "decode tok/s")
    }
    return {
        **medians,
        "of it attention s": statistics.median(attention[1:]),
        "first token s, first time": turns[0]["first token s"],
    }


def state_checksum(cache: Cache) -> str:
    """Checksum of all recurrent states, in hexadecimal."""
    checksum = 0
    for layer in cache.layers:
        if isinstance(layer, DeltaState):
            assert layer.recurrent is not None
            checksum = zlib.crc32(np.array(layer.recurrent).tobytes(), checksum)
    return f"{checksum:08x}"


def two_turns(
    network: Network, states: DiskSnapshotCache | None, prompt: list[int], cache: Cache, chunk: int
) -> None:
    """Run and report two turns after `prompt`, which is in the cache; save each in `states`."""
    for number in (1, 2):
        prompt = [*prompt, *prompt_tokens(QUESTION)]
        turn = run_turn(network, cache, prompt, chunk)
        prompt = [*prompt, *turn["reply"]]
        bytes_ = states.written_bytes if states else 0
        started = time.perf_counter()
        if states:
            states.add(prompt[: cache.offset], cache.snapshot())
            turn["save s, engine waits"] = time.perf_counter() - started
            states.flush()
            turn["save s, on disk"] = time.perf_counter() - started
            turn["saved MB"] = (states.written_bytes - bytes_) / 1e6
            turn["notices"] = states.notices()
        turn["state"] = state_checksum(cache)
        print_phase(f"turn {number}", tokens=cache.offset, **turn)
        # The next turn continues from exactly the tokens in the cache.
        prompt = prompt[: cache.offset]


def first(
    network: Network, states: DiskSnapshotCache, args: argparse.Namespace, chunk: int
) -> None:
    """Prefill the long prompt, save snapshots of it and run two turns."""
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    prompt, cache = prompt_tokens(args.context), network.make_cache()
    long_at = long_position(args.context)
    saved_at = {*range(CHECKPOINT_TOKENS, args.context, CHECKPOINT_TOKENS), args.context}
    prefilling = waiting = 0.0
    timed: set[str] = set()

    def time_first_token(name: str) -> None:
        timed.add(name)
        times = first_token(network, cache, prompt[: cache.offset], chunk)
        print_phase(f"first token, {name}", tokens=cache.offset, **times)

    def save() -> float:
        """Seconds that the caller waits."""
        started = time.perf_counter()
        states.add(prompt[: cache.offset], cache.snapshot())
        return time.perf_counter() - started

    for end in sorted(saved_at | {long_at} | ({SHORT} if long_at > SHORT else set())):
        started, before = time.perf_counter(), cache.offset
        for _ in prefill(network, cache, prompt[before:end], chunk):
            if prefilling + time.perf_counter() - started > args.prefill_seconds:
                break
        took = time.perf_counter() - started
        prefilling += took
        if end in saved_at or cache.offset < end:
            waiting += save()
        print_phase(
            "prefill",
            tokens=cache.offset,
            **{
                "of": args.context,
                "prefill s": prefilling,
                "tok/s": cache.offset / prefilling,
                "tok/s of late": (cache.offset - before) / took,
                "waited for saving s": waiting,
                "peak GB": mx.get_peak_memory() / 1e9,
            },
        )
        if cache.offset < end:
            break
        if end == SHORT:
            time_first_token("short")
        if end == long_at:
            time_first_token("long")
    peak = mx.get_peak_memory()
    started = time.perf_counter()
    states.flush()
    print_phase(
        "saved",
        tokens=cache.offset,
        **{
            "saved MB": states.written_bytes / 1e6,
            "disk MB/s": states.written_bytes / 1e6 / max(states.written_seconds, 1e-9),
            "waited after prefill s": time.perf_counter() - started,
            "notices": states.notices(),
        },
    )
    estimate = memory.estimate(network.config, network.dtype.size, cache.offset, chunk, None)
    print_phase(
        "memory",
        **{
            "weights GB": weights / 1e9,
            "KV + state GB": cache.nbytes / 1e9,
            "KV in use GB": _used(cache) / 1e9,
            "peak GB": peak / 1e9,
            "peak over both GB": (peak - weights - cache.nbytes) / 1e9,
            "estimated over weights GB": estimate.total / 1e9,
        },
    )
    if "long" not in timed:
        time_first_token("long")
    two_turns(network, None, prompt[: cache.offset], cache, chunk)


def _used(cache: Cache) -> int:
    """Bytes of keys and values in use, without spare capacity."""
    return sum(
        array.nbytes * layer.offset // array.shape[2]
        for layer in cache.layers
        if isinstance(layer, KVCache)
        for array in layer.arrays
    )


def again(
    network: Network, states: DiskSnapshotCache, args: argparse.Namespace, chunk: int
) -> None:
    """Restore the long prompt, first from cold files if possible, and run the same two turns."""
    prompt = prompt_tokens(args.context)
    dropped = _drop_from_page_cache(states.folder)
    cache = network.make_cache()
    for name, cold in (("resume", dropped), ("resume, files in memory", False)):
        cache = network.make_cache()
        mx.clear_cache()
        started = time.perf_counter()
        restored = states.restore([*prompt, 0], cache)
        mx.eval(cache.arrays)
        mx.synchronize()
        seconds = time.perf_counter() - started
        print_phase(
            name,
            tokens=restored,
            **{
                "resume s": seconds,
                "read MB/s": cache.nbytes / 1e6 / seconds,
                "files dropped from memory before": cold,
                "notices": states.notices(),
            },
        )
    two_turns(network, states, prompt[: cache.offset], cache, chunk)


def _drop_from_page_cache(folder: Path) -> bool:
    """Drop the files below `folder` from the page cache; False if the system cannot."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return True


PROCESSES: dict[str, Callable[[Network, DiskSnapshotCache, argparse.Namespace, int], None]] = {
    "first": first,
    "again": again,
}


def run(args: argparse.Namespace) -> None:
    """Run the process named `args.process`."""
    started = time.perf_counter()
    network, weights = load(args)
    size = network.dtype.size
    mx.synchronize()
    name = fingerprint.of_network(weights, network.config, str(network.dtype), None)
    chunk = memory.chunk_for(network.config, size, args.context, mx.get_active_memory(), None)
    load_seconds = time.perf_counter() - started
    # Compile before anything is timed.
    warm_up = network.make_cache()
    run_turn(network, warm_up, prompt_tokens(2 * chunk), chunk)
    run_turn(network, warm_up, [*prompt_tokens(2 * chunk + REPLY), *prompt_tokens(QUESTION)], chunk)
    del warm_up
    mx.synchronize()
    mx.clear_cache()
    print_phase(
        "model",
        fingerprint=name,
        chunk=chunk,
        **{"model s": load_seconds, "warm-up s": time.perf_counter() - started - load_seconds},
    )
    states = DiskSnapshotCache(args.folder, name, budget=1 << 40)
    try:
        PROCESSES[args.process](network, states, args, chunk)
    finally:
        states.close()
