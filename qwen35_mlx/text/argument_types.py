"""The types that the JSON schema of a parameter allows.

A parameter's value is text. It becomes a number, a boolean, null, a list or an object only if the
schema allows one. `$ref` is looked up in the schema of all parameters, `anyOf`, `oneOf` and `allOf`
are combined, and `enum`, `const`, `nullable`, `items` and `properties` count without a `type`.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any
from urllib.parse import unquote

# Schemas looked at for one parameter. References may form circles, or grow without bound.
_MAX_STEPS = 500
_MAX_DEPTH = 50
_ALL = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
# Keywords that make sense for one type only, and so stand for it.
_IMPLIED = {
    "properties": "object",
    "patternProperties": "object",
    "additionalProperties": "object",
    "required": "object",
    "items": "array",
    "prefixItems": "array",
}


def allowed_types(schema: object, root: Mapping[str, Any] | None = None) -> frozenset[str]:
    """The types that a JSON schema allows; empty if it allows all of them or none.

    Args:
        root: the schema that `$ref` points into, as `#/$defs/NAME`.
    """
    types = _Reader(root or {}).types(schema, 0)
    return types if types and types != _ALL else frozenset()


class _Reader:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._steps = 0

    def types(self, schema: object, depth: int) -> frozenset[str]:
        self._steps += 1
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or self._steps > _MAX_STEPS:
            return _ALL
        bounds = [*self._stated(schema), *self._combined(schema, depth + 1)]
        if not bounds:
            bounds = [{type_} for keyword, type_ in _IMPLIED.items() if keyword in schema][:1]
        types = reduce(frozenset.intersection, map(frozenset, bounds), _ALL)
        return types | {"null"} if schema.get("nullable") is True else types

    def _stated(self, schema: Mapping[str, Any]) -> list[set[str]]:
        """The types that `type`, `enum` and `const` name."""
        named = schema.get("type")
        listed = named if isinstance(named, list) else [named]
        types = {name for name in listed if isinstance(name, str)}
        bounds = [types | {"integer"} if "number" in types else types] if types else []
        values = schema.get("enum")
        if isinstance(values, list) and values:
            bounds.append({type_of(value) for value in values})
        if "const" in schema:
            bounds.append({type_of(schema["const"])})
        return bounds

    def _combined(self, schema: Mapping[str, Any], depth: int) -> list[frozenset[str]]:
        """The types that other schemas allow."""
        bounds = []
        for keyword in ("anyOf", "oneOf"):
            if options := _schemas(schema.get(keyword)):
                bounds.append(frozenset[str]().union(*(self.types(one, depth) for one in options)))
        bounds += [self.types(one, depth) for one in _schemas(schema.get("allOf"))]
        for keyword in ("$ref", "$dynamicRef"):
            if isinstance(reference := schema.get(keyword), str):
                bounds.append(self.types(referenced(reference, self._root), depth))
        return bounds


def referenced(reference: str, root: Mapping[str, Any]) -> object:
    """What a JSON pointer names, as `#/$defs/NAME`; None if there is no such thing."""
    if not reference.startswith("#"):
        return None
    found: object = root
    for part in reference[1:].split("/")[1:]:
        part = unquote(part).replace("~1", "/").replace("~0", "~")
        if isinstance(found, Mapping):
            found = found.get(part)
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            return None
    return found


def type_of(value: object) -> str:
    """The name of a parsed value's type in JSON schema."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "integer" if value.is_integer() else "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _schemas(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()
