"""The body of one tool call, between <tool_call> and </tool_call>.

Qwen3.5 writes

    <function=NAME>
    <parameter=KEY>
    VALUE
    </parameter>
    </function>

where VALUE may have several lines and nothing in it is escaped. Older models write a JSON object,
`{"name": ..., "arguments": {...}}`.

Arguments are kept only if JSON holds them exactly, wherever they are stored, exported or rendered:
nested at most `MAX_DEPTH` deep, finite numbers, integers of at most 64 bits, whole characters.
A parameter's value that is not stays the text that the model wrote; a JSON object that is not is no
call, and so stays text as a whole.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from qwen35_mlx.json_text import write_json
from qwen35_mlx.text.argument_types import allowed_types
from qwen35_mlx.text.call_reader import Found, FunctionReader, Outcome
from qwen35_mlx.text.call_tags import Function, Kind

_HALF_CHARACTER = re.compile("[\ud800-\udfff]")

# Lists and objects within each other in the arguments of a call; the arguments are the first.
MAX_DEPTH = 64

# Function name -> parameter name -> JSON schema.
ParameterSchemas = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A complete call: the function's name and its arguments."""

    name: str
    arguments: dict[str, object]


def parse_call(body: str, schemas: ParameterSchemas) -> ParsedCall | None:
    """Parse a body in either format; None if it fits neither."""
    body = body.strip()
    return parse_json(body) if body.startswith("{") else _parse_function(body, schemas)


def parameter_schemas(tools: Iterable[Mapping[str, Any]]) -> ParameterSchemas:
    """The schema of every parameter of some tools.

    A tool is `{"type": "function", "function": {...}}` or the inner mapping alone. One of another
    shape has no schemas.
    """
    schemas = {}
    for tool in tools:
        function = tool.get("function", tool)
        parameters = _mapping(_mapping(function).get("parameters"))
        name = _mapping(function).get("name")
        if isinstance(name, str):
            properties = _mapping(parameters.get("properties"))
            types = {key: allowed_types(schema, parameters) for key, schema in properties.items()}
            schemas[name] = {key: {"type": sorted(named)} for key, named in types.items()}
    return schemas


def rendered_calls(calls: Sequence[Mapping[str, Any]]) -> str | None:
    """The text of stored calls that are nested too deep for a template; None for others.

    Args:
        calls: in the form of chat templates, as an earlier version may have stored them.
    """
    if not is_deep(list(calls), MAX_DEPTH + 3):
        return None
    spaced = (", ", ": ")  # as a model writes JSON
    bodies = [write_json(call.get("function", call), separators=spaced) for call in calls]
    return "\n".join(f"<tool_call>\n{body}\n</tool_call>" for body in bodies)


def _parse_function(body: str, schemas: ParameterSchemas) -> ParsedCall | None:
    text = f"{Kind.CALL.value}{body}{Kind.CALL_END.value}"
    reader = FunctionReader()
    if reader.push(text) != Found(Outcome.COMPLETE, len(text)) or reader.function is None:
        return None
    return to_call(text, reader.function, schemas)


def to_call(text: str, function: Function, schemas: ParameterSchemas) -> ParsedCall | None:
    """The call that a function in a text stands for; None if its arguments are not certain.

    They are not if one name has two values, or if a value holds the tag of a parameter on offer
    that the call itself lacks.
    """
    types = schemas.get(function.name, {})
    written: dict[str, str] = {}
    for key, start, end in function.parameters:
        # One newline on each side belongs to the format, the rest to the value.
        value = text[start:end].removeprefix("\n").removesuffix("\n")
        if written.setdefault(key, value) != value:
            return None
    if any(key in types and key not in written for key in function.loose):
        return None
    values = {key: _convert(value, types.get(key)) for key, value in written.items()}
    return ParsedCall(function.name, values)


def parse_json(body: str) -> ParsedCall | None:
    """Parse a body in JSON."""
    try:
        # Models write raw newlines in strings, which strict JSON forbids.
        call = json.loads(body, strict=False, object_pairs_hook=_unique)
        arguments = call.get("arguments", {})
        if isinstance(arguments, str):
            arguments = json.loads(arguments, strict=False, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    name = call.get("name")
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ParsedCall(name, arguments) if is_exact([name, arguments], MAX_DEPTH + 1) else None


def is_exact(value: object, depth: int = MAX_DEPTH) -> bool:
    """Whether JSON holds a parsed value exactly, at most `depth` lists and objects deep."""
    return not is_deep(value, depth) and all(_is_exact(one) for one in chain(*_levels(value)))


def is_deep(value: object, depth: int) -> bool:
    """Whether a parsed value has more than `depth` lists and objects within each other."""
    deepest = next(islice(_levels(value), depth, None), [])
    return any(isinstance(one, dict | list) for one in deepest)


def _levels(value: object) -> Iterator[list[object]]:
    """The value, then what it holds, then what that holds, and so on. Nothing here recurses."""
    level = [value]
    while level:
        yield level
        inner: list[object] = []
        for one in level:
            if isinstance(one, dict):
                inner += one.keys()
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        level = inner


def _is_exact(one: object) -> bool:
    """Whether JSON holds a value exactly, apart from what is in it."""
    match one:
        case float():
            return math.isfinite(one)
        case int():
            return -(2**63) <= one < 2**63
        case str():
            return _HALF_CHARACTER.search(one) is None
    return True


def _convert(value: str, schema: object) -> object:
    """`value` in the type that its schema names; unchanged if it cannot be converted.

    If a schema allows several types, null comes first, then string, then the type that JSON gives.
    """
    types = allowed_types(schema)
    text = value.strip()
    if "null" in types and text == "null":
        return None
    if not types or "string" in types:
        return value
    if "boolean" in types and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant, strict=False)
    except (ValueError, RecursionError):
        return value
    if isinstance(parsed, float) and "number" not in types:
        if "integer" not in types or not parsed.is_integer():
            return value
        parsed = int(parsed)
    if not is_exact(parsed, MAX_DEPTH - 1):
        return value
    expected = {
        int: {"integer", "number"},
        float: {"number"},
        dict: {"object"},
        list: {"array"},
    }
    return parsed if types & expected.get(type(parsed), set()) else value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """The object of these pairs. Of a name with two values nobody can say which one counts."""
    found = dict(pairs)
    if len(found) < len(pairs) and any(found[name] != value for name, value in pairs):
        raise ValueError("a name with two values")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
