"""What a checkpoint holds beside its weights: tokenizer, chat template, generation settings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The text side of a checkpoint, whatever kind of file it comes from.

    Attributes:
        tokenizer: the text of tokenizer.json.
        tokenizer_config: the content of tokenizer_config.json.
        chat_template: the template's source, None if there is none.
        generation_config: the content of generation_config.json.
    """

    tokenizer: str
    tokenizer_config: Mapping[str, Any]
    chat_template: str | None
    generation_config: Mapping[str, Any]
