"""What grammars cost: `python -m scripts.benchmarks.grammar`.

Replies of the demo model of one length, without a grammar, with one that allows everything, and
with a JSON schema, in turns: milliseconds of a pass of the network, and what the grammar adds to
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


def decode_pass(
    model: Model, grammar: Grammar | None, tokens: int, depth: int
) -> tuple[float, float, float]:
    """Seconds, seconds of the processors and tokens of a pass, after the first ones.

    Args:
        depth: drafts of the MTP head in each.
    """
    network = model.network
    prompt = model.render([{"role": "user", "content": "Tell me a story."}], thinking=False)
    cache = network.make_cache()
    drafter = None
    if depth:
        drafter = Drafter(MTPDrafts(network, cache), None, PassCosts(), depth=depth)
        drafter.begin(prompt, 0)
    for _ in prefill(network, cache, prompt[:-1], 512):
        pass
    sampler = Sampler(Sampling(temperature=0), network.config.vocab_size, 0, grammar)
    stream = decode(network, cache, prompt[-1:], sampler, drafter)
    list(islice(stream, 8))
    before = 0 if drafter is None else drafter.passes
    started, used = time.perf_counter(), time.process_time()
    count = len(list(islice(stream, tokens)))
    seconds, used = time.perf_counter() - started, time.process_time() - used
    passes = count if drafter is None else drafter.passes - before
    stream.close()
    return seconds / passes, used / passes, count / passes


def replies(model: Model, tokens: int, runs: int) -> list[dict[str, Any]]:
    """A row for each grammar and number of drafts; ratios are medians over runs in turns."""
    size = model.network.config.vocab_size
    # A token that the model does not write, so that the end of a reply is no end to the grammar.
    vocabulary = GrammarVocabulary(model.tokenizer, size, [max(model.tokenizer.control_tokens.ids)])
    grammars = {
        "anything": vocabulary.compile(lark(ANYTHING)),
        "schema": vocabulary.compile(json_schema(ENDLESS)),
    }
    rows = []
    for depth, (name, grammar) in itertools.product((0, 3), grammars.items()):
        pairs = [
            [decode_pass(model, one, tokens, depth) for one in (None, grammar)] for _ in range(runs)
        ]
        plain, within = (
            [statistics.median(values) for values in zip(*side, strict=True)]
            for side in zip(*pairs, strict=True)
        )
        row = {"grammar": name, "drafts": depth, "ms without": 1000 * plain[0]}
        row |= {"tokens without": plain[2], "ms with": 1000 * within[0], "tokens with": within[2]}
        added = [statistics.median(100 * (b[i] / a[i] - 1) for a, b in pairs) for i in range(2)]
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
    parser.add_argument("--tokens", type=int, default=120, help="of a reply")
    parser.add_argument("--runs", type=int, default=7)
    args = parser.parse_args()
    with load("demo", dtype="float32") as model:
        started = time.perf_counter()
        size = model.network.config.vocab_size
        vocabulary = GrammarVocabulary(model.tokenizer, size, model.eos)
        made = 1000 * (time.perf_counter() - started)
        rows = replies(model, args.tokens, args.runs)
        report.print_table(rows)
        host = host_row(model, vocabulary) | {"vocabulary ms": made}
        report.print_table([host])
        report.print_json("grammar", rows, host=host)


if __name__ == "__main__":
    main()
