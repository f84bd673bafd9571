"""Grammars of raw strings: what a JSON schema says of a string, for one without quotes."""

from collections.abc import Mapping
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.json_text import write_json
from qwen35_mlx.text.argument_types import allowed_types, referenced
from qwen35_mlx.text.call_tags import read_tags
from qwen35_mlx.text.grammar_source import lark_regex

_ANY = "/(?s:.*)/"
_NO_TAG = (
    r"~/(?s:.*)(<tool_call>|<\/tool_call>|<\/function>|<\/parameter>|<function=|<parameter=)"
    r"(?s:.*)/"
)
# References may form circles.
_MAX_DEPTH = 20


def raw_string(schema: object, root: Mapping[str, Any], *, null: bool) -> str:
    """A terminal of Lark for the strings that a schema allows, without any tag of a call.

    Heeded are `enum`, `const`, `pattern`, `minLength`, `maxLength`, `$ref`, `anyOf`, `oneOf` and
    `allOf`; a `format` is not.

    Args:
        root: the schema that `$ref` points into.
        null: whether null is allowed, too.

    Raises:
        Qwen35Error: there is no such string.
    """
    found = f"({_strings(schema, root, 0)}) & {_NO_TAG}"
    return f'({found}) | "null"' if null else found


def _strings(schema: object, root: Mapping[str, Any], depth: int) -> str:
    if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
        return _ANY
    bounds = [*_own_bounds(schema)]
    for keyword in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(keyword), list):
            strings = [one for one in options if _allows_string(one, root)]
            bounds.append(" | ".join(f"({_strings(one, root, depth + 1)})" for one in strings))
    all_of = schema.get("allOf")
    for one in all_of if isinstance(all_of, list) else ():
        bounds.append(_strings(one, root, depth + 1))
    if isinstance(reference := schema.get("$ref"), str):
        bounds.append(_strings(referenced(reference, root), root, depth + 1))
    return " & ".join(f"({bound})" for bound in bounds if bound) or _ANY


def _own_bounds(schema: Mapping[str, Any]) -> list[str]:
    bounds = []
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list):
        strings = [one for one in values if isinstance(one, str) and not [*read_tags(one)]]
        if not strings and None not in values:
            raise Qwen35Error(
                f"a parameter may be {shown(values)}, of which no call can have one: allow another"
                " value"
            )
        bounds.append(" | ".join(map(write_json, strings)))
    if isinstance(pattern := schema.get("pattern"), str):
        bounds.append(" | ".join(map(_searched, _alternatives(pattern))))
    least, most = schema.get("minLength", 0), schema.get("maxLength", "")
    if least or most != "":
        bounds.append(f"/(?s:.{{{least},{most}}})/")
    return bounds


def _allows_string(schema: object, root: Mapping[str, Any]) -> bool:
    types = allowed_types(schema, root)
    return not types or "string" in types


def _searched(pattern: str) -> str:
    """A terminal for texts in which a pattern without alternatives is found."""
    before, after = not pattern.startswith("^"), not _ends_in_anchor(pattern)
    core = pattern[0 if before else 1 : None if after else -1]
    parts = [f"/{lark_regex(core, 'dw')}/"] if core else []
    return " ".join([*([_ANY] if before else []), *parts, *([_ANY] if after else [])]) or '""'


def _ends_in_anchor(pattern: str) -> bool:
    escapes = len(pattern) - 1 - len(pattern[:-1].rstrip("\\"))
    return pattern.endswith("$") and escapes % 2 == 0


def _alternatives(pattern: str) -> list[str]:
    """The parts of a pattern between bars that are in no group and no class."""
    parts, depth, in_class, skip = [""], 0, False, False
    for character in pattern:
        if character == "|" and not (depth or in_class or skip):
            parts.append("")
            continue
        parts[-1] += character
        if skip:
            skip = False
        elif character == "\\":
            skip = True
        elif in_class:
            in_class = character != "]"
        elif character in "([)":
            in_class = character == "["
            depth += {"(": 1, ")": -1}.get(character, 0)
    return parts
