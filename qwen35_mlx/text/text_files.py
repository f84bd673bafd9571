"""The text side of a checkpoint: tokenizer, chat template and generation settings."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object, read_text

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATE = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class TextFiles:
    """What a checkpoint holds beside its weights, whatever kind of file it comes from.

    Attributes:
        path: the folder, or the file that holds all of it.
        tokenizer: the text of tokenizer.json; None if there is none.
        tokenizer_config: the content of tokenizer_config.json.
        chat_template: the template's source; None if there is none.
        generation_config: the content of generation_config.json.
        template_name: the file that holds the template.
    """

    path: Path
    tokenizer: str | None
    tokenizer_config: Mapping[str, Any]
    chat_template: str | None
    generation_config: Mapping[str, Any]
    template_name: str = TEMPLATE

    @classmethod
    def from_folder(cls, path: Path) -> "TextFiles":
        """Read the files of a checkpoint folder; those that are missing count as empty.

        The template is in chat_template.jinja, else in chat_template.json, else in
        tokenizer_config.json. Of several named templates, "default" is taken.

        Raises:
            Qwen35Error: a file is unreadable, or no template is called "default".
        """
        tokenizer, config = path / TOKENIZER, read_json_object(path / TOKENIZER_CONFIG)
        template, name = _find_template(path, config)
        return cls(
            path,
            read_text(tokenizer) if os.path.lexists(tokenizer) else None,
            config,
            template,
            read_json_object(path / GENERATION_CONFIG),
            name,
        )

    def where(self, name: str) -> str:
        """A file as error lines name it."""
        return str(self.path / name) if self.path.is_dir() else f"{self.path} ({name})"


def _find_template(path: Path, tokenizer_config: Mapping[str, Any]) -> tuple[str | None, str]:
    """The text of a checkpoint's template, None if it has none, and the file that holds it."""
    file = path / TEMPLATE
    if os.path.lexists(file) and (source := read_text(file)).strip():
        return source, TEMPLATE
    for name, content in (
        ("chat_template.json", read_json_object(path / "chat_template.json")),
        (TOKENIZER_CONFIG, tokenizer_config),
    ):
        if entry := content.get("chat_template"):
            source = _default_source(entry, path / name)
            return source if source.strip() else None, name
    return None, TEMPLATE


def _default_source(entry: object, file: Path) -> str:
    """The template in a `chat_template` entry: a text, or named ones as a list or by name."""
    if isinstance(entry, str):
        return entry
    named = entry if isinstance(entry, dict) else {}
    if isinstance(entry, list):
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
    source = named.get("default")
    if not isinstance(source, str):
        names = ", ".join(sorted(map(repr, named))) or "none"
        raise Qwen35Error(
            f"{file} has no chat template called 'default' (there: {names}): add the"
            " chat_template.jinja of the original checkpoint"
        )
    return source
