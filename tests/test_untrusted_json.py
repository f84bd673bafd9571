"""JSON of others is parsed within bounds, and its fields are checked as they are read."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx import untrusted_json
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import MAX_JSON_BYTES, read_json_object
from qwen35_mlx.untrusted_json import MAX_DEPTH, MAX_TOKENS, Fields, parse_json


@pytest.mark.parametrize(
    "value",
    [
        *({}, [], "", 0, -1, 1.5, True, None, 2**63 - 1, -(2**63), "[{" * 100, '"\\,[', "é😀\x00"),
        {"a": [1, {"b": "]}"}], "": "\\"},
    ],
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_values_of_ordinary_files(value: Any, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only)) == value


def test_a_whole_number_beyond_64_bits_becomes_a_float() -> None:
    # transformers writes 10**30 for a tokenizer without a limit.
    value = parse_json('{"model_max_length": 1000000000000000019884624838656}')
    assert value == {"model_max_length": 1e30}
    assert isinstance(value["model_max_length"], float)
    assert isinstance(parse_json(str(2**63)), float)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested more than 32 deep"),
        ('{"a":' * 100_000, "nested more than 32 deep"),
        ('"\\"' * 100_000, "Extra data|delimiter|Unterminated"),
        ('"' + "\\" * 100_001, "Unterminated"),
        ("Infinity", "'Infinity' is not finite"),
        ("-Infinity", "is not finite"),
        ("NaN", "'NaN' is not finite"),
        ("1e999", "'1e999' is not finite"),
        ("9" * 5000, "is not finite"),
        ('{"a": 1, "a": 1}', "a key appears twice"),
        ('[{"a": {"b": 1, "b": 2}}]', "a key appears twice"),
        (r'"\ud800"', "surrogates not allowed"),
        (r'{"a\udfff": 1}', "surrogates not allowed"),
        ("\ufeff{}", "BOM"),
        ("", "Expecting value"),
    ],
)
def test_what_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 300


def test_too_many_parts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(untrusted_json, "MAX_TOKENS", 100)
    for part in ("0,", "[],", '"a,b",'):
        with pytest.raises(ValueError, match="more than 100 parts"):
            parse_json("[" + part * 101 + "0]")
    assert len(parse_json("[" + "0," * 98 + "0]")) == 99


def test_the_deepest_nesting_that_is_read() -> None:
    assert parse_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


@pytest.mark.parametrize("part", ["[],", "0,", '"",', '{"":0},'])
def test_no_text_takes_a_gigabyte(part: str) -> None:
    tracemalloc.start()
    try:
        parse_json("[" + part * 20_000 + "0]")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    tokens = 20_000 * sum(character in '[],{"' for character in part.replace('""', '"'))
    assert peak * MAX_TOKENS / tokens < 1e9


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "f.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(Qwen35Error, match=r"f\.json cannot be read \(it has 33,554,433 bytes"):
        read_json_object(tmp_path / "f.json")


FIELDS = Fields({"none": None, "x": "64", "n": 7, "f": 7.0, "h": 0.5, "l": [3, 4]}, "c.json")


def test_fields_of_the_right_type() -> None:
    assert FIELDS.whole("n") == FIELDS.whole("f") == 7
    assert FIELDS.number("h") == 0.5
    assert FIELDS.text("x", "") == "64"
    assert FIELDS.token_ids("n") == (7,)
    assert FIELDS.token_ids("l") == (3, 4)


@pytest.mark.parametrize("name", ["none", "missing"])
def test_null_counts_as_missing(name: str) -> None:
    assert FIELDS.whole(name, 3) == 3
    assert FIELDS.flag(name, default=True)
    assert FIELDS.text(name, "d") == "d"
    assert FIELDS.section(name).values == {}
    assert FIELDS.token_ids(name) == ()
    with pytest.raises(Qwen35Error, match=rf"c\.json has no '{name}'"):
        FIELDS.whole(name)


ODD: tuple[Any, ...] = (True, "64", [], {}, [7], float("inf"), float("nan"), -1, 2**31, 10**400)


@pytest.mark.parametrize("value", ODD, ids=shown)
def test_a_whole_number_is_nothing_else(value: Any) -> None:
    with pytest.raises(Qwen35Error, match=r"^c\.json: 'a' is .*, .*: fetch the file again$"):
        Fields({"a": value}, "c.json").whole("a")


@pytest.mark.parametrize("value", [*ODD, [True], [-1], [0.5], ["1"], [[1]], 0.5], ids=shown)
def test_token_ids_are_nothing_else(value: Any) -> None:
    fields = Fields({"eos_token_id": value}, "generation_config.json")
    if value in ([], [7]):
        assert fields.token_ids("eos_token_id") == tuple(value)
        return
    with pytest.raises(Qwen35Error, match=r"generation_config\.json: 'eos_token_id' is .* token"):
        fields.token_ids("eos_token_id")


def test_flags_texts_and_objects_are_nothing_else() -> None:
    for read in (FIELDS.flag, FIELDS.section, lambda name: FIELDS.text(name, "")):
        with pytest.raises(Qwen35Error, match=r"'n' is 7, (not|neither)"):
            read("n")


def test_a_value_in_an_error_is_short_and_on_one_line() -> None:
    long = {"a\n\x1b[31m": "b" * 10**6, **{str(i): [[[[[[0]]]]]] for i in range(1000)}}
    for value in (long, "x\n" * 10**6, [[]] * 10**6, 10**400, 10**5000):
        assert len(shown(value)) < 300
        assert shown(value).isprintable()


def test_an_error_is_one_line_whatever_it_quotes():
    assert str(Qwen35Error("tensor 'a\nb\u2028c' is bad\n")) == "tensor 'a b c' is bad"
