"""One of several processes that run the demo model together, and what it replies.

python -m tests.distributed.chat_child FOLDER

The first process writes FOLDER/replies.json.
"""

import json
import sys
from pathlib import Path

import qwen35_mlx
from qwen35_mlx.distributed.place import Place
from qwen35_mlx.distributed.processes import Processes, follow

QUESTION = [{"role": "user", "content": "What is 17 + 25?"}]


def replies(model: qwen35_mlx.Model) -> list[dict]:
    """Replies of a model, greedy and sampled, with and without drafts and a grammar."""
    found = []
    for options in (
        {"temperature": 0.0},
        {"temperature": 0.8, "seed": 3},
        {"temperature": 0.8, "seed": 4, "response_format": {"type": "json_object"}},
    ):
        reply = model.generate(QUESTION, max_tokens=40, **options)
        found.append({"text": reply.text, "thinking": reply.thinking})
    return found


def main(folder: Path) -> None:
    place = Place.of_environment()
    assert place is not None
    if place.rank:
        follow(place)
        return
    processes = Processes.join(place, print)
    print(processes.speed)
    found = {}
    for mtp in ("off", 3):
        model = qwen35_mlx.load("demo", mtp=mtp, processes=processes)
        found[str(mtp)] = replies(model)
        del model
    (folder / "replies.json").write_text(json.dumps(found))
    processes.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
