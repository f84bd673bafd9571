"""One of two processes that do not fit each other, and the line that the first one gets.

python -m tests.distributed.start_child FOLDER WHAT

WHAT differs in the second: "version", "missing" (its model) or "other" (the files of it). The first
writes the line to FOLDER/line.txt.
"""

import sys
from pathlib import Path

import qwen35_mlx
from qwen35_mlx.checkpoint.opening import ModelNames
from qwen35_mlx.distributed import follower
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.distributed.processes import Processes, follow
from qwen35_mlx.errors import Qwen35Error


def differ(what: str) -> None:
    match what:
        case "version":
            qwen35_mlx.__version__ = "0.0.0"
        case "missing":
            resolve = ModelNames.resolve
            ModelNames.resolve = lambda self, *_: resolve(ModelNames("./no-model"))
        case "other":
            follower.of_checkpoint = lambda *_: "abc"


def lead(place: Place) -> None:
    processes = Processes.join(place, print)
    try:
        qwen35_mlx.load("demo", processes=processes)
    finally:
        processes.close()


def main(folder: Path, what: str) -> None:
    place = Place.of_environment()
    assert place is not None
    if place.rank:
        differ(what)
        follow(place)
        return
    try:
        lead(place)
    except Qwen35Error as error:
        (folder / "line.txt").write_text(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
