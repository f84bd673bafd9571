"""Grammars as they are given: by a JSON schema, by a regex, or in Lark's form.

`llguidance` compiles them (`generation/grammar.py`). Control tokens are never text to it: a string
of JSON may hold "<think>", and not the token. A Lark grammar may name them, as in
`start: <think> /a+/`, or give their ids, `<[2025]>`; `<[*]>` is any token.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line
from qwen35_mlx.text.bounded_schema import bounded

# Characters of a grammar. Compiling takes time and memory that grow with it.
MAX_CHARACTERS = 1 << 18
# The lines of a grammar that a message quotes. Of a tool, nobody has written them.
_EXCERPT = re.compile(r"^at \d+\(\d+\): |^ *\d+ \|.*$|^ *\^ *$", re.MULTILINE)
# White space in JSON is that of `json.dumps`. Where it is free, a small model fills lines with it,
# and any model pays for the indentation. The other options keep a schema from having keywords
# ignored that cannot be enforced.
_JSON_OPTIONS = {
    "whitespace_flexible": False,
    "item_separator": r",\x20?",
    "key_separator": r":\x20?",
    "lenient": False,
    "coerce_one_of": False,
}


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar that is not compiled yet.

    Attributes:
        what: it is, for error lines.
        body: one grammar in llguidance's form.
        parts: grammars that `body` names, as in `start: @NAME`.
    """

    what: str
    body: Mapping[str, Any]
    parts: Mapping[str, "GrammarSource"] = field(default_factory=dict)

    def text(self) -> str:
        """All of it as llguidance reads it.

        Raises:
            Qwen35Error: it is no JSON, or too long.
        """
        named = [{"name": name, **part.body} for name, part in self.parts.items()]
        try:
            text = json.dumps({"grammars": [self.body, *named]})
        except (TypeError, ValueError, RecursionError) as error:
            raise unusable(self.what, error) from None
        if len(text) > MAX_CHARACTERS:
            raise Qwen35Error(
                f"the {self.what} has {len(text):,} characters, and at most {MAX_CHARACTERS:,} can"
                " be compiled: make it smaller"
            )
        return text


def unusable(what: str, error: object) -> Qwen35Error:
    """The error for a grammar that cannot be compiled."""
    reason = _EXCERPT.sub("", str(error))
    return Qwen35Error(f"the {what} cannot be used ({one_line(reason)}): correct it")


def json_schema(schema: Mapping[str, Any], what: str = "JSON schema") -> GrammarSource:
    """Replies that are one JSON value which `schema` allows, on one line.

    Strings, numbers and arrays without bounds in the schema have none in the reply, except for
    whole numbers: `WHOLE_LIMIT`.

    Raises:
        Qwen35Error: it is no mapping, or nested too deep.
    """
    if not isinstance(schema, Mapping):
        raise unusable(what, "it is no object")
    try:
        return GrammarSource(what, {"json_schema": with_json_options(bounded(schema))})
    except RecursionError:
        raise unusable(what, "it is nested too deep") from None


def with_json_options(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema with the options of its text, in place of any that it has."""
    return {**schema, "x-guidance": _JSON_OPTIONS}


def regex(pattern: str) -> GrammarSource:
    """Replies that `pattern` matches as a whole, in the syntax of Rust's regex crate."""
    return GrammarSource("regex", {"lark_grammar": f"start: /{lark_regex(pattern)}/"})


def lark(text: str) -> GrammarSource:
    """Replies that a Lark grammar derives from its rule `start`."""
    return GrammarSource("Lark grammar", {"lark_grammar": text})


def lark_regex(pattern: str, ascii_classes: str = "") -> str:
    """A regex as it stands between slashes in Lark.

    Args:
        ascii_classes: of "d", "w" and "s", those that mean ASCII alone.
    """
    # Imported where it is used: 60 ms, which a start without grammars need not take.
    from llguidance import regex_to_lark

    return regex_to_lark(pattern, ascii_classes)
