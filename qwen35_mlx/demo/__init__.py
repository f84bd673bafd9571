"""The small trained model that ships with the package."""

from pathlib import Path

NAME = "demo"


def folder() -> Path:
    """The checkpoint's folder."""
    return Path(__file__).parent
