"""The names at the top of the package: complete, lazy, and the same objects as in their modules."""

import ast
import importlib
import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, is_dataclass
from pathlib import Path
from typing import get_args

import pytest

import qwen35_mlx
from qwen35_mlx.session import events

HEAVY = {"mlx", "mlx_lm", "numpy", "transformers", "tokenizers", "jinja2", "huggingface_hub"}
EVENTS = [event.__name__ for event in get_args(qwen35_mlx.Event)]


def modules_after(code: str) -> set[str]:
    """The modules that a new process has loaded after `code`."""
    code += "\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(run.stdout))


def test_importing_the_package_loads_nothing_else() -> None:
    loaded = modules_after("import qwen35_mlx")
    assert not HEAVY & loaded
    assert [name for name in loaded if name.startswith("qwen35_mlx.")] == []


@pytest.mark.parametrize("names", [["Answer"], [*EVENTS, "Event", "TurnEvent", "Reply", "Usage"]])
def test_events_load_nothing_heavy(names: list[str]) -> None:
    loaded = modules_after(f"from qwen35_mlx import {', '.join(names)}")
    assert "qwen35_mlx.session.events" in loaded
    assert not HEAVY & loaded


def test_every_event_is_a_name_of_the_package() -> None:
    assert set(EVENTS) <= set(qwen35_mlx.__all__)
    assert {"Answer", "Done", "Thinking", "ToolCall"} <= set(EVENTS)
    for name in EVENTS:
        assert getattr(qwen35_mlx, name) is getattr(events, name)


def test_type_checkers_see_the_same_names_in_the_same_modules() -> None:
    source = Path(qwen35_mlx.__file__).read_text(encoding="utf-8")
    imported: dict[str, str] = {}
    for statement in ast.walk(ast.parse(source)):
        if isinstance(statement, ast.ImportFrom) and (statement.module or "").startswith("qwen35"):
            assert statement.module
            imported |= {alias.name: statement.module for alias in statement.names}
    assert sorted(imported) == qwen35_mlx.__all__
    for name, module in imported.items():
        assert getattr(qwen35_mlx, name) is getattr(importlib.import_module(module), name)


def test_an_unknown_name_is_named() -> None:
    with pytest.raises(AttributeError, match="'qwen35_mlx' has no attribute 'Awnser'"):
        _ = qwen35_mlx.Awnser


def test_convert_stays_the_function_whatever_is_imported_first() -> None:
    code = (
        "import qwen35_mlx.convert, qwen35_mlx\n"
        "assert callable(qwen35_mlx.convert)\n"
        "import qwen35_mlx.convert\n"
        "assert callable(qwen35_mlx.convert)"
    )
    assert "qwen35_mlx.convert" in modules_after(code)


USAGE = qwen35_mlx.Usage(3, 0, 2, 0.1, 0.2, 99)
CALL = qwen35_mlx.ToolCall("f", {"x": [1]})
VALUES = [
    qwen35_mlx.Thinking("so"),
    qwen35_mlx.Answer("yes"),
    CALL,
    qwen35_mlx.Done("stop", USAGE, {"role": "assistant", "content": "yes"}),
    qwen35_mlx.Reply("yes", "so", (CALL,), USAGE, "tool_calls"),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_events_and_replies_are_frozen_slotted_values_that_pickle(value: object) -> None:
    assert pickle.loads(pickle.dumps(value)) == value
    assert is_dataclass(value)
    assert not hasattr(value, "__dict__")
    with pytest.raises(FrozenInstanceError):
        setattr(value, fields(value)[0].name, "no")


def test_all_events_are_frozen_and_slotted() -> None:
    for event in get_args(qwen35_mlx.Event):
        assert event.__dataclass_params__.frozen
        assert "__slots__" in vars(event)
