"""Quality and speed of keys and values in 8 bits: `python -m scripts.benchmarks.kv8`.

Quality (`--only quality`): reads texts of growing length that hide one detail, like those the demo
model was trained on, with exact and with 8-bit keys and values. Compares the logits at every
position of the prompt and the most likely tokens, and then whether each model, replying on its own,
finds the detail. The replies of any model are judged by the same rule: they must contain the value.

Speed (`--only speed`, on a GPU): time on the device of one layer's attention of a few tokens to a
long cache, in 8 bits by the kernel and by MLX's operations, and in bfloat16. Weights are not read.

Prints tables and ends in one JSON line.
"""

import argparse
import itertools
import sys
from typing import Any

import mlx.core as mx
import numpy as np

import qwen35_mlx
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.kv_cache import KVCache
from scripts.benchmarks import kv8_speed
from scripts.demo_training.evaluate import needles
from scripts.demo_training.turns import Message
from scripts.support import report
from scripts.support.random_weights import SHAPES

BITS = 8
CHUNK = 512  # tokens per call: the logits of a whole text would be large


class Pair:
    """A model with exact and with 8-bit keys and values, on the same prompts, greedily."""

    def __init__(self, exact: qwen35_mlx.Model, packed: qwen35_mlx.Model):
        self.models = exact, packed
        self.positions = self.same = self.texts = self.same_replies = 0
        self.difference_sum, self.largest_difference = 0.0, 0.0
        self._replies: list[str] = []  # of the 8-bit model, in the order of the questions

    def first(self, messages: list[Message], **how: Any) -> str:
        """The reply of the exact model; the other reply is kept for `second`."""
        one, other = self._both_replies(messages, **how)
        self.texts += 1
        self.same_replies += one == other
        self._replies.append(other)
        return one

    def second(self, *_: Any, **__: Any) -> str:
        """The reply of the 8-bit model to the question that `first` answered."""
        return self._replies.pop(0)

    def length(self, messages: list[Message]) -> int:
        return self.models[0].count(messages, thinking=True)

    def _both_replies(
        self,
        messages: list[Message],
        *,
        thinking: bool,
        max_tokens: int,
        tools: list[dict[str, Any]] | None,
    ) -> list[str]:
        prompt = self.models[0].render(messages, thinking=thinking, tools=tools)
        caches = [model.make_cache() for model in self.models]
        last = [0, 0]
        for start in range(0, len(prompt), CHUNK):
            ids = mx.array([prompt[start : start + CHUNK]])
            logits = [_logits(*pair, ids) for pair in zip(self.models, caches, strict=True)]
            self._compare(*logits)
            last = [int(one[-1].argmax()) for one in logits]
        return [_greedy(*each, max_tokens) for each in zip(self.models, caches, last, strict=True)]

    def _compare(self, one: np.ndarray, other: np.ndarray) -> None:
        difference = abs(one - other)
        self.positions += len(one)
        self.same += int((one.argmax(-1) == other.argmax(-1)).sum())
        self.difference_sum += float(difference.mean(-1).sum())
        self.largest_difference = max(self.largest_difference, float(difference.max()))


def _logits(model: qwen35_mlx.Model, cache: Cache, ids: mx.array) -> np.ndarray:
    hidden = model.network(ids, cache)
    return np.array(model.network.logits(hidden)[0].astype(mx.float32))


def _greedy(model: qwen35_mlx.Model, cache: Cache, token: int, max_tokens: int) -> str:
    reply = [token]
    while len(reply) < max_tokens and reply[-1] not in model.eos:
        reply.append(int(_logits(model, cache, mx.array([[reply[-1]]]))[-1].argmax()))
    return model.tokenizer.decode(reply)


def kv_bytes(model: qwen35_mlx.Model) -> float:
    """Bytes of keys and values per token."""
    cache = model.make_cache()
    model.network(mx.array([[0] * 256]), cache)
    layers = (layer for layer in cache.layers if isinstance(layer, KVCache))
    return sum(array.nbytes / array.shape[2] for layer in layers for array in layer.arrays)


def measure(
    exact: qwen35_mlx.Model, packed: qwen35_mlx.Model, tokens: int, count: int
) -> dict[str, Any]:
    pair = Pair(exact, packed)
    exact_score = needles(pair.first, pair.length, tokens, count)
    packed_score = needles(pair.second, pair.length, tokens, count)
    return {
        "tokens": tokens,
        "texts": count,
        "same token, %": 100 * pair.same / pair.positions,
        "logits apart, mean": pair.difference_sum / pair.positions,
        "logits apart, most": pair.largest_difference,
        "found": exact_score.right,
        f"found with {BITS} bits": packed_score.right,
        "same reply": pair.same_replies,
    }


def quality(model: str, lengths: list[int], count: int) -> tuple[list[dict[str, Any]], dict]:
    """Rows of the table, and what else the JSON line has."""
    exact, packed = (qwen35_mlx.load(model, kv_bits=bits) for bits in (None, BITS))
    rows = []
    for tokens in lengths:
        rows.append(measure(exact, packed, tokens, count))
        report.print_table(rows[-1:])
    print()
    report.print_table(rows)
    sizes = {"exact": kv_bytes(exact), f"{BITS} bits": kv_bytes(packed)}
    spread = float(np.std(exact.logits(range(256))))
    print(f"Bytes of keys and values a token: {sizes}. Logits spread by {spread:.2f}.")
    return rows, {"model": model, "bytes_per_token": sizes, "logits_std": spread}


def speed(shapes: list[str], contexts: list[int], passes: list[int]) -> list[dict[str, Any]]:
    rows = []
    for sizes in itertools.product(shapes, contexts, passes):
        rows.append(kv8_speed.measure(*sizes))
        report.print_table(rows[-1:])
    print()
    report.print_table(rows)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--only", choices=("quality", "speed"), help="default: both, on a GPU")
    parser.add_argument("--model", default="demo", help="folder, or repository on the Hub")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--count", type=int, default=5, help="texts of each length")
    parser.add_argument("--shapes", choices=SHAPES, nargs="+", default=["4b", "35b-a3b"])
    parser.add_argument("--contexts", type=int, nargs="+", default=[2048, 32768, 131072])
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 4], help="tokens of a pass")
    args = parser.parse_args()
    gpu = gpu_kernel.backend() is not None
    if args.only == "speed" and not gpu:
        parser.error("speed needs a GPU")
    rows, more = [], {}
    if args.only != "speed":
        rows, more = quality(args.model, args.tokens, args.count)
    if args.only != "quality" and gpu:
        rows += speed(args.shapes, args.contexts, args.passes)
    report.print_json("kv8", rows, **more)
    return 0


if __name__ == "__main__":
    sys.exit(main())
