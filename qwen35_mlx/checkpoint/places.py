"""The folders in which this and other programs keep models. No MLX, no network."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object, read_text
from qwen35_mlx.user_paths import is_dir, is_file

_APPLICATION_DATA = "~/Library/Application Support"  # on macOS


@dataclass(frozen=True, slots=True)
class Place:
    """A folder in which a program keeps models.

    Attributes:
        program: for people.
        by_publisher: whether its models are in `publisher/repository`, as on the Hub.
    """

    program: str
    folder: Path
    by_publisher: bool = True


def program_places() -> list[Place]:
    """The folders of other programs that exist here, each once. Never raises.

    - LM Studio: the folder that its settings name, `models` in its home, and that of older
      versions. `~/.lmstudio-home-pointer` names its home if that is not `~/.lmstudio`.
    - oMLX.
    - llama.cpp, before it used the cache of the Hub.
    """
    home = user_folder(_first_line("~/.lmstudio-home-pointer")) or "~/.lmstudio"
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    named = [
        ("LM Studio", _downloads_folder(f"{home}/settings.json"), True),
        ("LM Studio", _downloads_folder(f"{_APPLICATION_DATA}/LM Studio/settings.json"), True),
        ("LM Studio", f"{home}/models", True),
        ("LM Studio", "~/.cache/lm-studio/models", True),
        ("oMLX", "~/.omlx/models", True),
        ("llama.cpp", os.environ.get("LLAMA_CACHE", ""), False),
        ("llama.cpp", "~/Library/Caches/llama.cpp", False),
        ("llama.cpp", f"{cache}/llama.cpp", False),
    ]
    found: dict[str, Place] = {}
    for program, word, by_publisher in named:
        if folder := user_folder(word):
            found.setdefault(os.path.realpath(folder), Place(program, folder, by_publisher))
    return list(found.values())


def hub_cache() -> Path | None:
    """The cache of the Hugging Face Hub, where the environment puts it; None if there is none.

    The first call imports huggingface_hub, which takes about 0.1 s.
    """
    try:
        from huggingface_hub import constants
    except Exception:  # it parses environment variables; a download names the problem
        return None
    return user_folder(constants.HF_HUB_CACHE)


def user_folder(word: str) -> Path | None:
    """The folder that a user means; None if there is none of that name."""
    path = _expanded(word)
    return path if path and is_dir(path) else None


def user_file(word: str) -> Path | None:
    """The regular file that a user means; None if there is none of that name."""
    path = _expanded(word)
    return path if path and is_file(path) else None


def _expanded(word: str) -> Path | None:
    try:
        return Path(word).expanduser() if word else None
    except (RuntimeError, ValueError):  # "~" of nobody
        return None


def _downloads_folder(settings: str) -> str:
    """The folder that LM Studio's settings name; "" if they name none."""
    with suppress(Qwen35Error):
        file = user_file(settings)
        folder = read_json_object(file).get("downloadsFolder") if file else None
        if isinstance(folder, str) and Path(folder).is_absolute():
            return folder
    return ""


def _first_line(name: str) -> str:
    with suppress(Qwen35Error):
        file = user_file(name)
        return next(iter(read_text(file).splitlines()), "").strip() if file else ""
    return ""
