"""JSON schemas with bounds where a model could write on for ever, or what is not read back."""

from collections.abc import Mapping
from typing import Any

# Just below the greatest whole number of 64 bits, beyond which readers of JSON differ.
WHOLE_LIMIT = 9 * 10**18
# In calls: without an exponent, which could make it infinite.
_CALL_LIMIT = 10**15
# Keywords whose values are data, not schemas.
_DATA = ("const", "enum", "default", "examples")
# A string within the JSON of a call holds no "<pa", "</fu" and so on: the starts of tags.
_NO_TAG = (
    "^([^<]|<+([^<pft/]|p[^<a]|f[^<u]|t[^<o]|/([^<pft]|p[^<a]|f[^<u]|t[^<o])))*(<+(/?[pft]?)?)?$"
)


def bounded(schema: Any) -> Any:
    """The schema with bounds for whole numbers that have none."""
    return _bounded(schema, call=False)


def bounded_in_call(schema: Any) -> Any:
    """As `bounded`, of values that come back from the text of a call as they are.

    All numbers have bounds, and strings without a pattern hold no tag of a call.
    """
    return _bounded(schema, call=True)


def _bounded(schema: Any, call: bool) -> Any:
    if isinstance(schema, list):
        return [_bounded(one, call) for one in schema]
    if not isinstance(schema, Mapping):
        return schema
    found = {key: one if key in _DATA else _bounded(one, call) for key, one in schema.items()}
    if "enum" in found or "const" in found:
        return found
    named = found.get("type")
    types = named if isinstance(named, list) else [named]
    if call and "string" in types and not {"pattern", "format"} & found.keys():
        found["pattern"] = _NO_TAG
    if "number" in types:
        return _with_limit(found, _CALL_LIMIT) if call else found
    return _with_limit(found, WHOLE_LIMIT) if "integer" in types else found


def _with_limit(schema: dict[str, Any], limit: int) -> dict[str, Any]:
    if not {"minimum", "exclusiveMinimum"} & schema.keys():
        schema["minimum"] = -limit
    if not {"maximum", "exclusiveMaximum"} & schema.keys():
        schema["maximum"] = limit
    return schema
