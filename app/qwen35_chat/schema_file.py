"""The file of `--schema`."""

from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line, read_text
from qwen35_mlx.text.grammar_source import json_schema, unusable
from qwen35_mlx.untrusted_json import parse_json
from qwen35_mlx.user_paths import is_dir, shown, user_path


def response_format(word: str) -> dict[str, Any]:
    """The `response_format` that binds an answer to the JSON schema in a file.

    Raises:
        Qwen35Error: the file cannot be read, or holds no JSON schema that can be enforced.
    """
    if not word.strip():
        raise Qwen35Error("--schema is empty: name a file with a JSON schema")
    path, name = user_path(word), shown(word)
    if is_dir(path):
        raise Qwen35Error(f"{name} is a folder: name a file with a JSON schema")
    text = read_text(path, "name a file with a JSON schema")
    try:
        schema = parse_json(text)
    except ValueError as error:
        raise Qwen35Error(f"{name} is not JSON ({one_line(error)}): correct it") from None
    if not isinstance(schema, dict):
        raise Qwen35Error(f"{name} does not hold a JSON object: write a schema in it")
    _check(schema, f"JSON schema in {name}")
    return {"type": "json_schema", "json_schema": {"schema": schema}}


def _check(schema: dict[str, Any], what: str) -> None:
    """Refuse a schema that cannot be enforced, before a model is loaded for it."""
    from llguidance import LLMatcher

    text = json_schema(schema, what).text()
    try:
        reason = LLMatcher.validate_grammar(text, None)
    except (ValueError, TypeError, RecursionError) as error:
        reason = str(error)
    if reason:
        raise unusable(what, reason)
