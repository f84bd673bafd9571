"""The small trained model that ships with the package."""

from importlib.resources import files
from pathlib import Path

NAME = "demo"


def folder() -> Path:
    """The checkpoint's folder."""
    return Path(str(files(__name__)))
