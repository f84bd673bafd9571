"""The folder that holds what a user keeps: the library, and model states beside it."""

import os
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error

VARIABLE = "QWEN35_HOME"


def home(folder: str | Path | None = None) -> Path:
    """An existing folder: `folder`, or $QWEN35_HOME, or the platform's place for user data.

    A folder that is made here is closed to other users (0700), since conversations are private;
    one that exists keeps the permissions it has.

    Raises:
        Qwen35Error: it cannot be made, or is a file.
    """
    named = folder or os.environ.get(VARIABLE)
    if named:
        path = Path(named).expanduser().absolute()
    else:
        from platformdirs import user_data_path  # a few ms that a named folder need not cost

        path = user_data_path("qwen35-chat")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise Qwen35Error(
            f"the folder {path} cannot be made ({error.strerror}): "
            f"set {VARIABLE} to a folder of yours"
        ) from None
    return path
