"""The command in a real terminal."""

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from scripts.support.terminal import Terminal

COMMAND = Path(sys.executable).with_name("qwen35-chat")
QUIT = "\x11"
LOADED = "F1 help"


def chat(
    home: Path,
    *options: str,
    size: tuple[int, int] = (100, 30),
    on_output: Callable[[bytes], None] | None = None,
    variables: Mapping[str, str] = MappingProxyType({}),
) -> Terminal:
    """Start the command as a user with this home folder, and more variables of the environment."""
    kept = ("PATH", "PYTHONPATH", "LANG", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"QWEN35_HOME": str(home), "HOME": str(home), "LC_ALL": "C.UTF-8"}
    environment |= {f"XDG_{name}_HOME": str(home / name) for name in ("DATA", "CONFIG", "CACHE")}
    environment |= variables
    return Terminal(
        [str(COMMAND), *options],
        environment=environment,
        folder=home,
        size=size,
        on_output=on_output,
    )
