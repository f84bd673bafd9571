"""JSON schemas, random ones too, whose values are short: a reply of a small model can end."""

import random
from typing import Any

WORDS = ("name", "city", "age", "unit", "tags", "é", "a b", 'quo"te')
VALUES = ("red", "two words", 'a "b"', "é", 0, -7, 2.5, True, False, None)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["a", "bc"]}, "minItems": 1, "maxItems": 2},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}


def random_schema(seed: int) -> dict[str, Any]:
    """An object or an array at the top, with definitions that it may refer to."""
    rng = random.Random(seed)
    schema = rng.choice((_object, _array))(rng, 2 if seed % 4 == 0 else 1)
    return schema | {"$defs": {"leaf": _leaf(rng), "list": _array(rng, 0)}}


def random_tool(seed: int) -> dict[str, Any]:
    """A tool whose parameters are of all types, some with definitions that they refer to."""
    rng = random.Random(seed)
    names = rng.sample(WORDS, rng.randint(0, 4))
    properties = {name: rng.choice((_any(rng, 1), _text(rng))) for name in names}
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    parameters["required"] = [name for name in names if rng.random() < 0.6]
    parameters["$defs"] = {"leaf": _leaf(rng), "list": _array(rng, 0)}
    return {"type": "function", "function": {"name": f"do_{seed}", "parameters": parameters}}


def _text(rng: random.Random) -> dict[str, Any]:
    """Strings with and without bounds, alone and beside others."""
    return rng.choice(
        (
            {"type": "string", "maxLength": 30},
            {"type": ["string", "null"], "maxLength": 12},
            {"anyOf": [{"type": "string", "maxLength": 6}, {"type": "integer", "minimum": 3}]},
            {
                "type": "string",
                "pattern": rng.choice(("^ab|c$", "[0-9]{2}", r"^x\.[yz]+$", "a$")),
                "maxLength": 9,
            },
            {"enum": ["", "<b>", "two\nlines", " padded "]},
            {"type": "string", "minLength": 2, "maxLength": 5},
            {"maxLength": 15},
        )
    )


def _any(rng: random.Random, depth: int) -> dict[str, Any]:
    if depth == 0 or rng.random() < 0.5:
        return rng.choice((_leaf, _leaf, _reference))(rng)
    return rng.choice((_object, _array, _union))(rng, depth - 1)


def _object(rng: random.Random, depth: int) -> dict[str, Any]:
    names = rng.sample(WORDS, rng.randint(1, 3))
    return {
        "type": "object",
        "properties": {name: _any(rng, depth) for name in names},
        "required": [name for name in names if rng.random() < 0.7],
        "additionalProperties": False,
    }


def _array(rng: random.Random, depth: int) -> dict[str, Any]:
    least = rng.randint(0, 2)
    bounds = {"minItems": least, "maxItems": least + rng.randint(0, 2)}
    items = _any(rng, depth) if depth else _leaf(rng)
    return {"type": "array", "items": items, **bounds}


def _union(rng: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_any(rng, depth), _any(rng, depth)]}


def _reference(rng: random.Random) -> dict[str, Any]:
    return {"$ref": rng.choice(("#/$defs/leaf", "#/$defs/list"))}


def _leaf(rng: random.Random) -> dict[str, Any]:
    low = rng.randint(-1000, 1000)
    bounds = {"minimum": low, "maximum": low + rng.randint(0, 500)}
    return rng.choice(
        (
            {"type": "boolean"},
            {"type": "null"},
            {"type": ["integer", "null"], **bounds},
            {"type": "integer", **bounds},
            {"type": "integer", "multipleOf": 5, "minimum": 0, "maximum": 100},
            # A multiple of a number that is a float without rounding, and of few digits: a small
            # model may write digits for ever.
            {"type": "number", "exclusiveMinimum": low, "maximum": low + 3, "multipleOf": 0.25},
            {"type": "string", "maxLength": rng.randint(0, 8)},
            {"type": "string", "pattern": "^[a-c]{2,5}(-[0-9]+)?$", "maxLength": 9},
            {"type": "string", "format": "date"},
            {"const": rng.choice(VALUES)},
            {"enum": rng.sample(VALUES, rng.randint(1, 4))},
        )
    )
