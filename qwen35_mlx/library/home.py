"""The folder of a user's data: the library and the prompt cache."""

import os
import re
from contextlib import suppress
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import make_private
from qwen35_mlx.user_paths import absolute_user_path

VARIABLE = "QWEN35_HOME"
# The folder of all models' states: one folder for each model.
STATES = "states"
# The folder of states of models that this machine runs for another one, which has the messages.
RANK_STATES = "rank_states"
# The names of this project's files in the folder, and what a system puts into any folder.
_OWN = re.compile(
    r"library\b.*|libraries\.log|crash\.txt|(rank_)?states|open|history\..*|settings\.toml"
    r"|\.(history|settings)\b.*|\.DS_Store"
)


def home(folder: str | Path | None = None) -> Path:
    """The data folder, created if missing: `folder`, $QWEN35_HOME or the platform's default.

    Only the owner may enter it, since conversations are private. A folder that was made with other
    permissions is corrected, unless it holds anything else, and so is what it holds of this
    project.

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
        _take_from_others(path)
    except OSError as error:
        raise Qwen35Error(
            f"the folder {path} cannot be made ({error.strerror}): "
            f"set {VARIABLE} to a folder of yours"
        ) from None
    return path


def _take_from_others(folder: Path) -> None:
    """Correct the permissions of the folder and of the files of this project in it."""
    own = {path: _OWN.match(path.name) is not None for path in folder.iterdir()}
    real = folder.resolve()
    if all(own.values()) and real not in (Path.home(), *Path.home().parents):
        make_private(real)
    for path, is_own in own.items():
        if is_own:
            make_private(path)
    for states in (folder / STATES, folder / RANK_STATES):
        if states.is_dir() and not states.is_symlink():
            with suppress(OSError):
                for model in states.iterdir():
                    make_private(model)
