"""What keys and values in 8 bits cost in quality: `python -m scripts.bench_kv8`.

Texts with one detail to be found again, of growing length, as the demo model was trained on. Over
every position of such a prompt, with exact and with 8-bit keys and values: how far the logits are
apart, and how often both choose the same token. Then whether each, answering for itself, finds the
detail. Prints a table and ends in one JSON line.

Answers of another model than the demo are counted by the same rule: the value has to be in them.
"""

import argparse
import sys
from typing import Any

import mlx.core as mx
import numpy as np

import qwen35_mlx
from qwen35_mlx.model.cache import Cache, KVCache
from scripts import timing
from scripts.demo_training.evaluate import needles
from scripts.demo_training.turns import Message

BITS = 8
# Tokens read at once: logits of a whole text would be large.
CHUNK = 512


class Pair:
    """A model with exact and with 8-bit keys and values, reading the same and replying greedily."""

    def __init__(self, exact: qwen35_mlx.Model, packed: qwen35_mlx.Model):
        self.models = exact, packed
        self.positions = self.same = self.texts = self.same_replies = 0
        self.apart, self.most = 0.0, 0.0
        self._replies: list[str] = []  # of the second, in the order of the questions

    def first(self, messages: list[Message], **how: Any) -> str:
        """The exact one's reply; the other's is kept for `second`."""
        one, other = self._replies_of(messages, **how)
        self.texts += 1
        self.same_replies += one == other
        self._replies.append(other)
        return one

    def second(self, *_: Any, **__: Any) -> str:
        return self._replies.pop(0)

    def length(self, messages: list[Message]) -> int:
        return self.models[0].count(messages, thinking=True)

    def _replies_of(
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
        apart = abs(one - other)
        self.positions += len(one)
        self.same += int((one.argmax(-1) == other.argmax(-1)).sum())
        self.apart += float(apart.mean(-1).sum())
        self.most = max(self.most, float(apart.max()))


def _logits(model: qwen35_mlx.Model, cache: Cache, ids: mx.array) -> np.ndarray:
    hidden = model.network(ids, cache)
    return np.array(model.network.logits(hidden)[0].astype(mx.float32))


def _greedy(model: qwen35_mlx.Model, cache: Cache, token: int, max_tokens: int) -> str:
    reply = [token]
    while len(reply) < max_tokens and reply[-1] not in model.eos:
        reply.append(int(_logits(model, cache, mx.array([[reply[-1]]]))[-1].argmax()))
    return model.tokenizer.decode(reply)


def kv_bytes(model: qwen35_mlx.Model) -> float:
    """Of keys and values, a token."""
    cache = model.make_cache()
    model.network(mx.array([[0] * 256]), cache)
    layers = (layer for layer in cache.layers if isinstance(layer, KVCache))
    return sum(array.nbytes / array.shape[2] for layer in layers for array in layer.arrays)


def measure(
    exact: qwen35_mlx.Model, packed: qwen35_mlx.Model, tokens: int, count: int
) -> dict[str, Any]:
    pair = Pair(exact, packed)
    plain = needles(pair.first, pair.length, tokens, count)
    eight = needles(pair.second, pair.length, tokens, count)
    return {
        "tokens": tokens,
        "texts": count,
        "same token, %": 100 * pair.same / pair.positions,
        "logits apart, mean": pair.apart / pair.positions,
        "logits apart, most": pair.most,
        "found": plain.right,
        f"found with {BITS} bits": eight.right,
        "same reply": pair.same_replies,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="a folder, or a repository on the Hub")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096])
    parser.add_argument("--count", type=int, default=5, help="texts of each length")
    args = parser.parse_args()
    exact, packed = (qwen35_mlx.load(args.model, kv_bits=bits) for bits in (None, BITS))
    rows = []
    for tokens in args.tokens:
        rows.append(measure(exact, packed, tokens, args.count))
        timing.table(rows[-1:])
    print()
    timing.table(rows)
    sizes = {"exact": kv_bytes(exact), f"{BITS} bits": kv_bytes(packed)}
    spread = float(np.std(exact.logits(range(256))))
    print(f"Bytes of keys and values a token: {sizes}. Logits spread by {spread:.2f}.")
    timing.json_line("kv8", rows, model=args.model, bytes_per_token=sizes, logits_std=spread)
    return 0


if __name__ == "__main__":
    sys.exit(main())
