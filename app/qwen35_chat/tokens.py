"""How many tokens a text has."""

import json
from collections.abc import Callable
from pathlib import Path

CHARACTERS_PER_TOKEN = 4  # of English; good enough until a tokenizer is there


class Counter:
    """Counts with the tokenizer of the model, once that is known and loaded. For one thread.

    A model that cannot be found without the network is not looked for: then it is an estimate.
    """

    def __init__(self) -> None:
        self._model: str | None = None
        self._encode: Callable[[str], list[int]] | None = None
        self._tried = False

    def use(self, model: str) -> None:
        """From now on count as this model does."""
        self._model, self._encode, self._tried = model, None, False

    def count(self, text: str) -> str:
        """The count for people; "about" says that it is an estimate."""
        if not self._tried:
            self._tried = True
            self._load()
        if self._encode is None:
            return f"about {max(len(text) // CHARACTERS_PER_TOKEN, 1):,} tokens"
        return f"{len(self._encode(text)):,} tokens"

    def _load(self) -> None:
        from qwen35_chat.models import folder_of

        folder: Path | None = folder_of(self._model) if self._model else None
        if folder is None:
            return
        try:
            from qwen35_mlx.text.tokenizer import Tokenizer

            self._encode = Tokenizer.from_directory(folder).encode
        except Exception:  # an estimate does as well
            self._encode = None


def config_of(folder: Path) -> dict:
    """A checkpoint's config.json; empty if there is none that can be read."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
