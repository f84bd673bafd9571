"""Opens damaged checkpoints, and prints a line of JSON before and after each.

Arguments: a folder of undamaged checkpoints, an empty folder, the first seed, how many.
"""

import json
import os
import random
import resource
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
from qwen35_chat.models import local_models

import qwen35_mlx
from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.stored import in_folder
from qwen35_mlx.conversion.plan import plan_conversion
from tests.checkpoint.mutations import mutate
from tests.checkpoint.outcomes import outcome

# More virtual memory than this, and an allocation fails instead of filling the machine.
ADDRESS_SPACE = 6 << 30


def open_network(path: Path) -> None:
    network = load_network(open_checkpoint(in_folder(path)), notice=lambda _: None)
    mx.eval(network.logits(network(mx.array([[1, 2, 3]]), network.make_cache())))


def load(path: Path) -> None:
    model = qwen35_mlx.load(path, notice=lambda _: None)
    model.generate([{"role": "user", "content": "Hi"}], max_tokens=2)


def plan(path: Path) -> None:
    checkpoint = open_checkpoint(in_folder(path))
    checkpoint.verify()
    for chosen in (None, recipes.plain(recipes.quantization()), recipes.RECIPES[recipes.DEFAULT]):
        plan = plan_conversion(checkpoint, chosen, None)
        json.dumps(plan.config)
        if any("\n" in note for note in (*checkpoint.notes, *plan.notes(checkpoint))):
            raise AssertionError(plan.notes(checkpoint))


def list_models(path: Path) -> None:
    local = local_models((str(path),))
    if any("\n" in entry.reason for entry in local.left_out):
        raise AssertionError(local)


STEPS: tuple[Callable[[Path], None], ...] = (open_network, load, plan, list_models)


def peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main(bases: Path, scratch: Path, first: int, count: int) -> None:
    folders = sorted(bases.iterdir())
    for folder in folders:
        for step in STEPS:
            if (result := outcome(step, folder)) not in ("ok", "refused"):
                raise SystemExit(f"{folder.name} {step.__name__}: {result}")
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, resource.RLIM_INFINITY))
    before = peak_bytes()
    os.chdir(scratch)
    for seed in range(first, first + count):
        rng = random.Random(seed)
        base = rng.choice(folders)
        path = scratch / str(seed)
        path.mkdir()
        for file in base.iterdir():
            (path / file.name).symlink_to(file)
        what = f"{base.name}, {mutate(path, rng)}"
        print(json.dumps({"seed": seed, "what": what}), flush=True)
        start = time.monotonic()
        results = {step.__name__: outcome(step, path) for step in STEPS}
        seconds = time.monotonic() - start
        report = {"seconds": seconds, "grown": peak_bytes() - before, "results": results}
        print(json.dumps(report), flush=True)
        shutil.rmtree(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
