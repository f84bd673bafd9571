"""The folder of a user's data: the library and the prompt cache."""

import os
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import absolute_user_path

VARIABLE = "QWEN35_HOME"


def home(folder: str | Path | None = None) -> Path:
    """The data folder, created if missing: `folder`, $QWEN35_HOME or the platform's default.

    A new folder has permissions 0700, since conversations are private. An existing one keeps its
    permissions.

    Raises:
        Qwen35Error: it cannot be created or is a file.
    """
    named = folder or os.environ.get(VARIABLE)
    if named:
        path = absolute_user_path(named)
    else:
        from platformdirs import user_data_path  # the import takes a few milliseconds

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
