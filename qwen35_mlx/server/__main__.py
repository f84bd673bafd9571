"""The server: `python -m qwen35_mlx.server`, which is `qwen35-chat serve`."""

import sys

from qwen35_mlx.server.command import main

if __name__ == "__main__":
    sys.exit(main())
