"""Counting the tokens of a text before it is sent."""

from collections.abc import Callable

CHARACTERS_PER_TOKEN = 4  # in English; for an estimate


class TokenCounter:
    """Counts with the tokenizer of a model, loaded at the first count. Not thread-safe.

    Estimates if there is no model, or none on this machine: nothing is downloaded.
    """

    def __init__(self) -> None:
        self._model: str | None = None
        self._encode: Callable[[str], list[int]] | None = None
        self._tried = False

    def use_model(self, model: str) -> None:
        """Count with this model's tokenizer from now on."""
        self._model, self._encode, self._tried = model, None, False

    @property
    def exact(self) -> bool:
        """Whether the model's tokenizer counts."""
        if not self._tried:
            self._tried = True
            self._load()
        return self._encode is not None

    def count(self, text: str) -> int:
        """The number of tokens, at least 1."""
        if not self.exact or self._encode is None:
            return max(len(text) // CHARACTERS_PER_TOKEN, 1)
        return len(self._encode(text))

    def describe(self, text: str) -> str:
        """The number of tokens for people, such as "12 tokens", or "about 12 tokens"."""
        return f"{'' if self.exact else 'about '}{self.count(text):,} tokens"

    def _load(self) -> None:
        from qwen35_mlx.checkpoint.stored import local_checkpoint

        folder = local_checkpoint(self._model) if self._model else None
        if folder is None:
            return
        try:
            from qwen35_mlx.checkpoint.text_files import read_text_files
            from qwen35_mlx.text.tokenizer import Tokenizer

            self._encode = Tokenizer.from_files(read_text_files(folder)).encode
        except Exception:  # an estimate is good enough
            self._encode = None
