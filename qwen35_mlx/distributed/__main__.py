"""A process that follows the first one: `python -m qwen35_mlx.distributed RANK RING`.

`launch` starts it, with the addresses of all processes as MLX's ring has them. It joins the others
once a line comes on standard input.
"""

import os
import signal
import sys
import tempfile
from pathlib import Path

from qwen35_mlx.distributed.launch import FAILED, READY
from qwen35_mlx.distributed.place import HOSTFILE, RANK, Place
from qwen35_mlx.distributed.reachable import RingCheck
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import print_error, print_line

# MLX waits for ever for processes that do not come, and heeds no Python meanwhile.
_JOIN_SECONDS = 120


def main(rank: str, ring: str) -> int:
    """Follow the first process, and return an exit code."""
    from qwen35_mlx.distributed.processes import follow

    with tempfile.TemporaryDirectory(prefix="qwen35-mlx-") as folder:
        file = Path(folder) / "hosts.json"
        file.write_text(ring)
        os.environ.update({HOSTFILE: str(file), RANK: rank})
        place = Place.of_environment()
        assert place is not None
        try:
            with RingCheck(ring, int(rank)) as check:
                check.reach_next()
                print_line(READY)
                if not sys.stdin.readline():
                    return 0  # the first process is gone
        except Qwen35Error as error:
            print_line(f"{FAILED}{error}")
            return 1
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_JOIN_SECONDS)
        try:
            follow(place, joined=lambda: signal.alarm(0))
        except Qwen35Error as error:
            print_error(str(error))
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
