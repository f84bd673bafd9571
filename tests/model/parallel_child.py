"""One of several processes that run networks together, and what each network computes.

python -m tests.model.parallel_child FOLDER

FOLDER/cases.json has the cases. What rank R computes is written to FOLDER/CASE-R.safetensors.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import mlx.core as mx

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.operations import agree
from qwen35_mlx.model.parallel import ALONE, Parallel


@dataclass(frozen=True, slots=True)
class Case:
    """A network and the passes that it makes.

    Attributes:
        path: of the checkpoint.
        ids: of the prompt.
        cuts: where the prompt is split into passes.
        reply: ids that follow, one a pass.
        drafts: whether the MTP head is run, and drafts are taken back.
        together: whether two conversations are run together.
        pipeline: whether a process has whole layers.
    """

    name: str
    path: str
    ids: list[int]
    cuts: list[int]
    reply: list[int]
    kv_bits: int | None = None
    drafts: bool = False
    together: bool = False
    pipeline: bool = False


def outputs(case: Case, parallel: Parallel = ALONE) -> dict[str, mx.array]:
    """Logits of every pass."""
    network = load_network(
        open_checkpoint(Path(case.path)),
        "float32",
        lambda _: None,
        mtp=case.drafts,
        parallel=parallel,
    )
    cache = network.make_cache(case.kv_bits)
    ids = mx.array([case.ids])
    hidden = [network(part, cache) for part in mx.split(ids, case.cuts, axis=1)]
    found = {"prompt": network.logits(mx.concatenate(hidden, axis=1))[0]}
    steps = [network.logits(network(mx.array([[id]]), cache))[0] for id in case.reply]
    if steps:
        found["reply"] = mx.concatenate(steps)
    if case.drafts:
        found |= _drafts(network, case, mx.concatenate(hidden, axis=1))
        assert network.mtp is not None
    if case.together:
        found["together"] = _together(network, case)
    mx.eval(found)
    return found


def _drafts(network: Network, case: Case, hidden: mx.array) -> dict[str, mx.array]:
    assert network.mtp is not None
    cache, ids = network.make_cache(case.kv_bits), mx.array([case.ids])
    embedded = network.embed(ids[:, 1:])
    # Of two conversations, with nothing between them that needs the first one's.
    halves = [slice(0, len(case.ids) // 2), slice(len(case.ids) // 2, len(case.ids) - 1)]
    heads = [network.mtp(hidden[:, half], embedded[:, half], KVCache()) for half in halves]
    network(ids[:, :7], cache)
    network(ids[:, 7:11], cache, revocable=True)
    network.take_back(cache, 3)
    taken_back = network.logits(network(ids[:, 8:10], cache))[0]
    return {"head": network.logits(mx.concatenate(heads, axis=1))[0], "taken back": taken_back}


def _together(network: Network, case: Case) -> mx.array:
    caches = [network.make_cache(case.kv_bits) for _ in range(2)]
    for cache, length in zip(caches, (9, 3), strict=True):
        network(mx.array([case.ids[:length]]), cache)
    stacks, ids = network.make_stacks(), mx.array([case.ids[:2], case.ids[2:4]])
    rows = [network.logits(network.together(ids[i][:, None], caches, stacks)) for i in range(2)]
    return mx.concatenate(rows)


def write_cases(folder: Path, cases: Sequence[Case]) -> None:
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))


def agree_on_kernels(parallel: Parallel) -> None:
    """Processes that would select other variants, or a reference, select the same."""
    assert parallel.shard is not None
    rank, ranks = parallel.shard.rank, parallel.shard.ranks
    assert parallel.exchange("ü" * rank) == ["ü" * other for other in range(ranks)]
    selection = KernelSelection(delta_decode=f"of {rank}", prefill_attention="all")
    selection.matmul_decode = {"4-bit": f"of {rank}", "8-bit": REFERENCE if rank else "all"}
    agree(selection, parallel)
    assert selection == KernelSelection(
        delta_decode="of 0",
        prefill_attention="all",
        matmul_decode={"4-bit": "of 0", "8-bit": REFERENCE},
    )


def main(folder: Path) -> None:
    gpu_kernel.disable_tf32()
    place = Place.of_environment()
    assert place is not None
    group = mx.distributed.init(strict=True, backend=place.backend)
    parallel = Parallel(group)
    assert parallel.shard is not None
    agree_on_kernels(parallel)
    for fields in json.loads((folder / "cases.json").read_text()):
        case = Case(**fields)
        file = folder / f"{case.name}-{parallel.shard.rank}.safetensors"
        mx.save_safetensors(str(file), outputs(case, Parallel(group, case.pipeline)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
