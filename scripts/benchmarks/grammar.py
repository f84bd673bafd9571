"""What grammars cost: `python -m scripts.benchmarks.grammar`.

Replies of the demo model without a grammar, with one that allows everything, and with a JSON
schema, a pass of each in turns: milliseconds of a pass of the network, and what the grammar adds to
it, by the clock and in time of the processors. Tokens a pass differ, since a schema is more or less
easily guessed than a story. Then what a schema costs the host: to compile it, and for each mask.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

import numpy as np

from qwen35_mlx.generation.decode import decode
from qwen35_mlx.generation.drafter import Drafter, PassCosts
from qwen35_mlx.generation.drafts import MTPDrafts
from qwen35_mlx.generation.grammar import Grammar, GrammarVocabulary
from qwen35_mlx.generation.prefill import prefill
from qwen35_mlx.generation.sampler import Sampler
from qwen35_mlx.generation.sampling_parameters import Sampling
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.text.grammar_source import json_schema, lark
from scripts.support import report

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "address": {
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
            "required": ["street", "city"],
        },
        "tags": {"type": "array", "items": {"enum": ["new", "old", "paid"]}, "maxItems": 5},
    },
    "required": ["name", "age", "address", "tags"],
    "additionalProperties": False,
}
REPLY = (
    '{"name": "Ann Example", "age": 41, "address": {"street": "12 Long Lane", "city": "Leeds"}, '
    '"tags": ["new", "paid"]}'
)
# Neither ends within a benchmark: after its end, a reply is not masked.
ENDLESS = {"type": "array", "items": SCHEMA, "minItems": 1000}
ANYTHING = "start: <[*]>*"


class Passes:
    """Passes of the network for one reply, without its first ones.

    Args:
        depth: drafts of the MTP head in each.

    Attributes:
        taken: of each, seconds, seconds of the processors and tokens.
    """

    def __init__(self, model: Model, grammar: Grammar | None, depth: int):
        network = model.network
        prompt = model.render([{"role": "user", "content": "Tell me a story."}], thinking=False)
        cache = network.make_cache()
        self._drafter = None
        if depth:
            self._drafter = Drafter(MTPDrafts(network, cache), None, PassCosts(), depth=depth)
            self._drafter.begin(prompt, 0)
        for _ in prefill(network, cache, prompt[:-1], 512):
            pass
        sampler = Sampler(Sampling(temperature=0), network.config.vocab_size, 0, grammar)
        self._tokens = decode(network, cache, prompt[-1:], sampler, self._drafter)
        list(islice(self._tokens, 8))
        self.taken: list[tuple[float, float, float]] = []

    def take(self) -> None:
        """One more pass."""
        started, used = time.perf_counter(), time.process_time()
        tokens, before = 0, 0 if self._drafter is None else self._drafter.passes
        while not tokens or (self._drafter is not None and self._drafter.passes == before):
            next(self._tokens)
            tokens += 1
        seconds, used = time.perf_counter() - started, time.process_time() - used
        self.taken.append((seconds, used, tokens))

    def typical(self) -> tuple[float, float, float]:
        """Medians of seconds and seconds of the processors, and mean tokens."""
        seconds, used, tokens = zip(*self.taken, strict=True)
        return statistics.median(seconds), statistics.median(used), statistics.mean(tokens)


def replies(model: Model, passes: int) -> list[dict[str, Any]]:
    """A row for each grammar and number of drafts. The passes of two replies are in turns."""
    size = model.network.config.vocab_size
    # A token that the model does not write, so that the end of a reply is no end to the grammar.
    vocabulary = GrammarVocabulary(model.tokenizer, size, [max(model.tokenizer.control_tokens.ids)])
    grammars = {
        "anything": vocabulary.compile(lark(ANYTHING)),
        "schema": vocabulary.compile(json_schema(ENDLESS)),
    }
    rows = []
    for depth, (name, grammar) in itertools.product((0, 3), grammars.items()):
        both = [Passes(model, one, depth) for one in (None, grammar)]
        for number in range(passes):
            for one in both if number % 2 else reversed(both):
                one.take()
        plain, within = (one.typical() for one in both)
        row = {"grammar": name, "drafts": depth, "ms without": 1000 * plain[0]}
        row |= {"tokens without": plain[2], "ms with": 1000 * within[0], "tokens with": within[2]}
        added = [100 * (within[i] / plain[i] - 1) for i in range(2)]
        rows.append(row | dict(zip(("added %", "added CPU %"), added, strict=True)))
    return rows


def median_ms(work: Callable[[], object], runs: int = 5) -> float:
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def host_row(model: Model, vocabulary: GrammarVocabulary) -> dict[str, Any]:
    """Compiling a schema, and the masks of a reply that it allows."""
    grammar = vocabulary.compile(json_schema(SCHEMA))
    ids = np.array(model.tokenizer.encode(REPLY), np.int32)
    matcher, times = grammar.matcher(), []
    titles = map(str, itertools.count())  # a schema that was compiled before is not compiled again
    for length in range(ids.size + 1):
        started = time.perf_counter()
        allowed = matcher.allowed(ids[:length])
        times.append(1000 * (time.perf_counter() - started))
        assert length == ids.size or allowed[0, ids[length]]
    return {
        "tokens": vocabulary.size,
        "compile ms": median_ms(
            lambda: vocabulary.compile(json_schema(SCHEMA | {"title": next(titles)}))
        ),
        "mask ms": statistics.median(times),
        "worst mask ms": max(times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passes", type=int, default=150, help="of a reply")
    args = parser.parse_args()
    with load("demo", dtype="float32") as model:
        started = time.perf_counter()
        size = model.network.config.vocab_size
        vocabulary = GrammarVocabulary(model.tokenizer, size, model.eos)
        made = 1000 * (time.perf_counter() - started)
        rows = replies(model, args.passes)
        report.print_table(rows)
        host = host_row(model, vocabulary) | {"vocabulary ms": made}
        report.print_table([host])
        report.print_json("grammar", rows, host=host)


if __name__ == "__main__":
    main()
