"""`python -m qwen35_chat` is the command `qwen35-chat`."""

import sys

from qwen35_chat.main import main

if __name__ == "__main__":
    sys.exit(main())
