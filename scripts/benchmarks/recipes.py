"""What recipes cost in quality: `python -m scripts.benchmarks.recipes`.

Quantises a model by each recipe and compares it with its plain float32 weights on dialogues that
were held out of the demo model's training: KL divergence of the next token at every position of the
replies, and how often the most likely token is the same. (The demo model was trained on replies
alone: what it expects elsewhere means little.) With `--questions`, each model also answers held-out
questions. Scales are bfloat16, as in a converted bfloat16 model.

With `--calibrate`, recipes that search scales are measured a second time, calibrated on other
dialogues: those of the demo model's training.

`--model random` makes a wide, dense model of random weights with heavy tails and outlier channels,
and compares on random ids. It shows how a recipe and the search bear such weights, not which kinds
of matrices matter: nothing in it was learned.

Prints a table and ends in one JSON line.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from zlib import crc32

import mlx.core as mx
import numpy as np

import qwen35_mlx
from qwen35_mlx import demo
from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import resolve_checkpoint
from qwen35_mlx.checkpoint.recipes import Assignment, Recipe
from qwen35_mlx.conversion.calibration import CalibrationText, Importance, measure_importance
from qwen35_mlx.conversion.quantizer import quantize
from qwen35_mlx.kernels.quantized import Quantization, dequantize
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import select_kernels
from qwen35_mlx.model.weight_shapes import trunk_tensors
from qwen35_mlx.model.weights import Weights
from qwen35_mlx.session.model import Model
from scripts.demo_training import dialogues
from scripts.demo_training.dialogues import Mix
from scripts.demo_training.evaluate import needles, sums
from scripts.demo_training.evaluate_package import PackageModel
from scripts.demo_training.text import ChatFormat
from scripts.support import report
from scripts.support.random_weights import SHAPES

LONGEST = 1024  # tokens of a dialogue
MIX = Mix(turns=10, sentences=40)
SEED = 99

Tensors = dict[str, mx.array]


@dataclass(frozen=True, slots=True)
class Text:
    """Token ids, and the positions whose next token is compared."""

    ids: list[int]
    positions: np.ndarray


class QuantizedSource:
    """A `TensorSource`: plain tensors, quantised by an assignment when they are read."""

    def __init__(
        self,
        tensors: Tensors,
        assignment: Assignment,
        *,
        search: bool,
        importance: Importance | None = None,
    ):
        self.assignment, self.search = assignment, search
        self.importance = importance or {}
        self.nbytes = recipes.nbytes({n: t.shape for n, t in tensors.items()}, assignment)
        self._tensors = tensors
        self._packed: dict[str, list[mx.array]] = {}

    def names(self) -> frozenset[str]:
        names = set()
        for tensor in self._tensors:
            q, module = self.assignment.get(tensor), tensor.removesuffix(".weight")
            names |= {f"{module}.{part}" for part in q.packed((1, q.group_size))} if q else {tensor}
        return frozenset(names)

    def quantization(self, module: str) -> Quantization | None:
        return self.assignment.get(f"{module}.weight")

    def rotation(self, module: str) -> None:
        return None

    def read(self, name: str) -> mx.array:
        module, part = name.rsplit(".", 1)
        q = self.quantization(module)
        if q is None:
            return self._tensors[name]
        if module not in self._packed:
            values = self._tensors[f"{module}.weight"].astype(mx.bfloat16)
            if self.search:
                self._packed[module] = quantize(values, q, self.importance.get(f"{module}.weight"))
            else:
                self._packed[module] = list(mx.quantize(values, q.group_size, q.bits, mode=q.mode))
        return self._packed[module][("weight", "scales", "biases").index(part)]


def plain_tensors(checkpoint: Checkpoint) -> Tensors:
    """The text network's tensors in float32, packed ones unpacked."""
    stored, tensors = checkpoint.names(), {}
    for name in trunk_tensors(checkpoint.model):
        module = name.removesuffix(".weight")
        q = checkpoint.quantization(module)
        if q is not None and f"{module}.scales" in stored:
            parts = [checkpoint.read(f"{module}.{part}") for part in q.packed((1, q.group_size))]
            biases = parts[2] if len(parts) > 2 else None
            tensors[name] = dequantize(parts[0], parts[1], biases, q, mx.float32)
        else:
            tensors[name] = checkpoint.read(name).astype(mx.float32)
        mx.eval(tensors[name])
    return tensors


def random_config() -> dict[str, Any]:
    """A dense model with an untied head, of the proportions of the 27B model."""
    text = SHAPES["27b"]["text_config"] | {
        "hidden_size": 640, "num_hidden_layers": 8, "num_attention_heads": 6,
        "num_key_value_heads": 1, "head_dim": 128, "linear_num_key_heads": 2,
        "linear_num_value_heads": 6, "intermediate_size": 2176, "vocab_size": 4096,
    }  # fmt: skip
    return SHAPES["27b"] | {"text_config": text}


_GAINS = {"embed": 25.0, "conv1d": 0.8, "out_proj": 0.1, "o_proj": 0.1, "down_proj": 0.1}


def random_tensors(config: ModelConfig) -> Tensors:
    """Student's t with 5 degrees of freedom; one input in 64 is 5 times as large."""
    tensors = {}
    for name, shape in trunk_tensors(config).items():
        rng = np.random.default_rng(crc32(name.encode()))
        if name.endswith(".A_log"):
            values = rng.uniform(-5, 0.5, shape)
        elif name.endswith(".dt_bias"):
            values = rng.uniform(-4, 1, shape)
        elif len(shape) == 1:
            values = np.exp(rng.normal(0, 0.3, shape))
        else:
            # Layers add a tenth of what the embeddings are, so that errors stay small.
            gain = next((gain for end, gain in _GAINS.items() if end in name), 1.0)
            values = rng.standard_t(5, shape) * gain * shape[-1] ** -0.5
            if shape[-1] >= 64:
                values[..., rng.choice(shape[-1], shape[-1] // 64, replace=False)] *= 5
        tensors[name] = mx.array(values.astype(np.float32))
    return tensors


def held_out_texts(tokens: int) -> list[Text]:
    """Dialogues with this many tokens of replies together, of values that training never saw."""
    text, found, total = ChatFormat.load(demo.folder()), [], 0
    for dialogue in dialogues.generate(SEED, MIX, held_out=True):
        sample = text.sample(dialogue)
        if len(sample.ids) <= LONGEST:
            found.append(Text(sample.ids, np.flatnonzero(sample.learn[1:])))
            total += len(found[-1].positions)
        if total >= tokens:
            break
    return found


def calibration_text(tokens: int) -> CalibrationText:
    """Dialogues of this many tokens together, of values that training saw."""
    text, documents = ChatFormat.load(demo.folder()), []
    for dialogue in dialogues.generate(SEED, MIX, held_out=False):
        ids = text.sample(dialogue).ids
        if len(ids) <= LONGEST:
            documents.append(ids)
        if sum(map(len, documents)) >= tokens:
            break
    return CalibrationText(documents, "")


def random_texts(config: ModelConfig, tokens: int) -> list[Text]:
    rng, length = np.random.default_rng(SEED), 256
    return [
        Text(rng.integers(config.vocab_size, size=length).tolist(), np.arange(length))
        for _ in range(-(-tokens // length))
    ]


def network_of(config: ModelConfig, source: QuantizedSource) -> Network:
    network = Network(config, Weights(config, source, mx.float32))
    select_kernels(network, print)
    return network


def log_probabilities(network: Network, texts: list[Text]) -> Iterator[mx.array]:
    """At the compared positions of each text: [positions, vocabulary]."""
    for text in texts:
        hidden = network(network.token_array(text.ids), network.make_cache())
        logits = network.logits(hidden[:, mx.array(text.positions)])[0].astype(mx.float32)
        yield logits - mx.logsumexp(logits, axis=-1, keepdims=True)


def divergence(
    network: Network, expected: list[mx.array], texts: list[Text]
) -> tuple[np.ndarray, float]:
    """KL divergence at each position, and the share of positions with the same top token."""
    divergences, same = [], []
    found = log_probabilities(network, texts)
    for reference, logs in zip(expected, found, strict=True):
        divergences.append(np.array(mx.sum(mx.exp(reference) * (reference - logs), axis=-1)))
        same.append(np.array(mx.argmax(reference, axis=-1) == mx.argmax(logs, axis=-1)))
    return np.concatenate(divergences), float(np.concatenate(same).mean())


def answers(base: Model, network: Network, questions: int) -> dict[str, Any]:
    """Right answers of `questions` each."""
    model = Model(base.name, Checkpoint.open(base.path), network, base.tokenizer, base.template)
    package = PackageModel(model)
    needle = needles(package.generate, package.length, 1024, questions)
    arithmetic = [sums(package.generate, questions, sign, thinking=True) for sign in "+-*"]
    return {
        "needle": f"{needle.right}/{questions}",
        "arithmetic": f"{sum(s.right for s in arithmetic)}/{3 * questions}",
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", default="demo", help="folder, repository on the Hub, or random")
    parser.add_argument("--tokens", type=int, default=4000, help="positions to compare")
    parser.add_argument("--questions", type=int, default=0, help="of each skill")
    parser.add_argument("--calibrate", type=int, default=0, help="tokens to calibrate on")
    parser.add_argument(
        "--recipes", nargs="+", default=["4bit", *_MIXED], help="beside plain 4-bit"
    )
    args = parser.parse_args()
    base: Model | None = None
    importance: Importance | None = None
    if args.model == "random":
        config = ModelConfig.from_dict(random_config())
        tensors, texts = random_tensors(config), random_texts(config, args.tokens)
    else:
        path = resolve_checkpoint(args.model)
        checkpoint = Checkpoint.open(path)
        config, tensors = checkpoint.model, plain_tensors(checkpoint)
        texts = held_out_texts(args.tokens)
        if args.calibrate:
            importance = measure_importance(checkpoint, calibration_text(args.calibrate))
        if args.questions:
            base = qwen35_mlx.load(args.model)
    listed = list(candidates(args.recipes, importance))
    rows = measure(config, tensors, texts, listed, base, args.questions)
    print()
    report.print_table(rows)
    report.print_json("recipes", rows, model=args.model, positions=args.tokens)
    return 0


_MIXED = ("mixed_4_6", "mixed_3_6", "mixed_3_4", "mixed_2_6")


def candidates(
    names: list[str], importance: Importance | None
) -> Iterator[tuple[Recipe, Importance | None]]:
    """Recipes to measure, each without and with the importance of inputs, if it searches scales."""
    four = recipes.plain(Quantization(64, 4))
    searched = replace(four, name="plain, searched", search=True)
    for recipe in (four, searched, *(recipes.RECIPES[name] for name in names)):
        yield recipe, None
        if importance and recipe.search:
            yield replace(recipe, name=f"{recipe.name}, calibrated"), importance


def measure(
    config: ModelConfig,
    tensors: Tensors,
    texts: list[Text],
    candidates: list[tuple[Recipe, Importance | None]],
    base: Model | None,
    questions: int,
) -> list[dict[str, Any]]:
    """A row per recipe, the first of which is the one that others are compared with."""
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    parameters = sum(tensor.size for tensor in tensors.values())
    exact = network_of(config, QuantizedSource(tensors, {}, search=False))
    expected = list(log_probabilities(exact, texts))
    mx.eval(expected)
    rows: list[dict[str, Any]] = []
    for recipe, importance in candidates:
        start = time.perf_counter()
        assignment = recipes.assign(recipe, shapes, config)
        source = QuantizedSource(tensors, assignment, search=recipe.search, importance=importance)
        network = network_of(config, source)
        divergences, same = divergence(network, expected, texts)
        first = rows[0] if rows else None
        mean = float(divergences.mean())
        rows.append({
            "recipe": recipe.name,
            "bytes": source.nbytes,
            "bits/weight": 8 * source.nbytes / parameters,
            "of plain": source.nbytes / first["bytes"] if first else 1.0,
            "mean KL": mean,
            "+-": float(divergences.std() / len(divergences) ** 0.5),
            "p99 KL": float(np.quantile(divergences, 0.99)),
            "of plain's": mean / first["mean KL"] if first else 1.0,
            "same top, %": 100 * same,
            **(answers(base, network, questions) if base else {}),
            "seconds": time.perf_counter() - start,
        })  # fmt: skip
        report.print_table(rows[-1:])
    return rows


if __name__ == "__main__":
    sys.exit(main())
