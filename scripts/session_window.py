"""One process of the benchmark of long prompts: `bench_session` starts them one after the other.

`first` reads a prompt, saves its state and goes on; `again` finds that state in a new process and
goes on as well. Every phase prints one JSON line as soon as it is over, so that what was measured
stays when a later phase fails or takes too long. Token ids go in and come out: no tokenizer.
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
from qwen35_mlx.checkpoint.layouts import Checkpoint
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.model.attention import Attention
from qwen35_mlx.model.cache import Cache, DeltaState, KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.prompt_cache import fingerprint
from qwen35_mlx.prompt_cache.disk import DiskSnapshotCache
from qwen35_mlx.prompt_cache.snapshots import CHECKPOINT
from qwen35_mlx.session import memory
from scripts.shapes import RandomSource, random_network, random_source

REPLY = 16
QUESTION = 50
SHORT = 2048
REPEATS = 3
# Of every random tensor, so many bytes go into the fingerprint.
SAMPLE = 512


def tokens(count: int) -> list[int]:
    return [(i * 7919 + i * i) % 1900 for i in range(count)]


def long_position(context: int) -> int:
    """Where the first token is timed again: 204,800 of 262,144."""
    return context * 25 // 32


def report(phase: str, **usage: Any) -> None:
    print(json.dumps({"phase": phase, **usage}), flush=True)


def network_of(args: argparse.Namespace) -> tuple[Network, str]:
    """The network, and a hash of its weights."""
    if args.shape:
        source = random_source(args.shape, args.bits)
        if mx.default_device() == mx.cpu:
            # As for a checkpoint: half precision is tens of times slower there.
            source = RandomSource(source.config, args.bits, mx.float32)
        return random_network(source), _sampled(source)
    path = resolve_checkpoint(args.model)
    checkpoint = Checkpoint.open(path)
    longer = args.context if args.context > checkpoint.model.max_position_embeddings else None
    network = load_network(checkpoint, None, None, context=longer)
    return network, fingerprint.of_weights(path)


def _sampled(source: RandomSource) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(source.names()):
        array = source.read(name)
        start = mx.view(array.reshape(-1), mx.uint8)[:SAMPLE]
        digest.update(f"{name} {array.shape} {array.dtype}".encode() + np.array(start).tobytes())
    return digest.hexdigest()


def turn_at(network: Network, cache: Cache, ids: list[int], chunk: int) -> dict[str, Any]:
    """A turn of the tokens that the cache lacks: how long it takes, and the reply."""
    started = time.perf_counter()
    for _ in prefill(network, cache, ids[cache.offset : -1], chunk):
        pass
    stream = decode(network, cache, ids[-1], lambda logits, _: mx.argmax(logits))
    reply = [next(stream)]
    first = time.perf_counter() - started
    reply += [next(stream) for _ in range(REPLY - 1)]
    rest = time.perf_counter() - started - first
    stream.close()
    return {"first token s": first, "decode tok/s": (REPLY - 1) / rest, "reply": reply}


def attention_seconds(network: Network, cache: Cache) -> float:
    """What attention alone takes of a first token: `QUESTION` - 1 queries, then one more."""
    config = network.config
    started = time.perf_counter()
    for count in (QUESTION - 1, 1):
        for layer, entry in zip(network.layers, cache.layers, strict=True):
            if isinstance(layer.mixer, Attention) and isinstance(entry, KVCache):
                shape = (count, config.head_dim)
                q = mx.ones((1, config.num_attention_heads, *shape), network.dtype)
                kv = mx.ones((1, config.num_key_value_heads, *shape), network.dtype)
                mx.eval(layer.mixer.attend(q, kv, kv, entry))
    return time.perf_counter() - started


def first_token(network: Network, cache: Cache, ids: list[int], chunk: int) -> dict[str, float]:
    """Medians of a turn of `QUESTION` tokens here; the cache is as before afterwards."""
    here, turns, attention = cache.snapshot(), [], []
    for _ in range(REPEATS + 1):
        turns.append(turn_at(network, cache, [*ids, *tokens(QUESTION)], chunk))
        cache.restore(here)
        attention.append(attention_seconds(network, cache))
        cache.restore(here)
    # The first of each compiles, perhaps, or lets the buffers grow.
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
    """Of all recurrent states: a difference of one bit, anywhere before, shows."""
    checksum = 0
    for layer in cache.layers:
        if isinstance(layer, DeltaState):
            assert layer.recurrent is not None
            checksum = zlib.crc32(np.array(layer.recurrent).tobytes(), checksum)
    return f"{checksum:08x}"


def two_turns(
    network: Network, states: DiskSnapshotCache | None, prompt: list[int], cache: Cache, chunk: int
) -> None:
    """After `prompt`, which is in the cache; what each saved, too."""
    for number in (1, 2):
        prompt = [*prompt, *tokens(QUESTION)]
        turn = turn_at(network, cache, prompt, chunk)
        prompt = [*prompt, *turn["reply"]]
        bytes_ = states.written_bytes if states else 0
        started = time.perf_counter()
        if states:
            states.keep(prompt[: cache.offset], cache.snapshot())
            turn["save s, engine waits"] = time.perf_counter() - started
            states.flush()
            turn["save s, on disk"] = time.perf_counter() - started
            turn["saved MB"] = (states.written_bytes - bytes_) / 1e6
            turn["notices"] = states.notices()
        turn["state"] = state_checksum(cache)
        report(f"turn {number}", tokens=cache.offset, **turn)
        # What was generated and not used yet is in the cache as well.
        prompt = prompt[: cache.offset]


def first(
    network: Network, states: DiskSnapshotCache, args: argparse.Namespace, chunk: int
) -> None:
    weights = mx.get_active_memory()
    mx.reset_peak_memory()
    prompt, cache = tokens(args.context), network.make_cache()
    long_at = long_position(args.context)
    kept = {*range(CHECKPOINT, args.context, CHECKPOINT), args.context}
    reading = waiting = 0.0
    timed: set[str] = set()

    def time_first_token(name: str) -> None:
        timed.add(name)
        found = first_token(network, cache, prompt[: cache.offset], chunk)
        report(f"first token, {name}", tokens=cache.offset, **found)

    def keep() -> float:
        started = time.perf_counter()
        states.keep(prompt[: cache.offset], cache.snapshot())
        return time.perf_counter() - started

    for end in sorted(kept | {long_at} | ({SHORT} if long_at > SHORT else set())):
        started, before = time.perf_counter(), cache.offset
        for _ in prefill(network, cache, prompt[before:end], chunk):
            if reading + time.perf_counter() - started > args.prefill_seconds:
                break
        took = time.perf_counter() - started
        reading += took
        if end in kept or cache.offset < end:
            waiting += keep()
        report(
            "prefill",
            tokens=cache.offset,
            **{
                "of": args.context,
                "prefill s": reading,
                "tok/s": cache.offset / reading,
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
    report(
        "saved",
        tokens=cache.offset,
        **{
            "saved MB": states.written_bytes / 1e6,
            "disk MB/s": states.written_bytes / 1e6 / max(states.written_seconds, 1e-9),
            "waited after prefill s": time.perf_counter() - started,
            "notices": states.notices(),
        },
    )
    wanted = memory.estimate(network.config, network.dtype.size, cache.offset, chunk, None)
    report(
        "memory",
        **{
            "weights GB": weights / 1e9,
            "KV + state GB": cache.nbytes / 1e9,
            "KV in use GB": _used(cache) / 1e9,
            "peak GB": peak / 1e9,
            "peak over both GB": (peak - weights - cache.nbytes) / 1e9,
            "estimated over weights GB": wanted.total / 1e9,
        },
    )
    if "long" not in timed:
        time_first_token("long")
    two_turns(network, None, prompt[: cache.offset], cache, chunk)


def _used(cache: Cache) -> int:
    """Bytes of keys and values without the room to grow."""
    return sum(
        array.nbytes * layer.offset // array.shape[2]
        for layer in cache.layers
        if isinstance(layer, KVCache)
        for array in layer.arrays
    )


def again(
    network: Network, states: DiskSnapshotCache, args: argparse.Namespace, chunk: int
) -> None:
    prompt = tokens(args.context)
    dropped = _drop_from_memory(states.folder)
    cache = network.make_cache()
    for name, cold in (("resume", dropped), ("resume, files in memory", False)):
        cache = network.make_cache()
        mx.clear_cache()
        started = time.perf_counter()
        restored = states.restore([*prompt, 0], cache)
        mx.eval(cache.arrays)
        mx.synchronize()
        seconds = time.perf_counter() - started
        report(
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


def _drop_from_memory(folder: Path) -> bool:
    """Ask the system to forget the files' contents, as after a week; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*.safetensors"):
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    return True


STEPS: dict[str, Callable[[Network, DiskSnapshotCache, argparse.Namespace, int], None]] = {
    "first": first,
    "again": again,
}


def run(args: argparse.Namespace) -> None:
    """The step `args.step` in this process."""
    started = time.perf_counter()
    network, weights = network_of(args)
    size = network.dtype.size
    mx.synchronize()
    name = fingerprint.of_network(weights, network.config, str(network.dtype), None)
    chunk = memory.chunk_for(network.config, size, args.context, mx.get_active_memory(), None)
    made = time.perf_counter() - started
    # What is compiled at first use is no part of a prompt's time.
    warm = network.make_cache()
    turn_at(network, warm, tokens(2 * chunk), chunk)
    turn_at(network, warm, [*tokens(2 * chunk + REPLY), *tokens(QUESTION)], chunk)
    del warm
    mx.synchronize()
    mx.clear_cache()
    report(
        "model",
        fingerprint=name,
        chunk=chunk,
        **{"model s": made, "warm-up s": time.perf_counter() - started - made},
    )
    states = DiskSnapshotCache(args.folder, name, budget=1 << 40)
    try:
        STEPS[args.step](network, states, args, chunk)
    finally:
        states.close()
