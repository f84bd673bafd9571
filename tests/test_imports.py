"""The import contract: modules import from lower floors only, without circles, and MLX stays out
of the modules that must start fast."""

import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.import_graph import Graph, find_circle, import_graph, modules_below

ROOT = Path(__file__).parents[1]
PRODUCT = modules_below(ROOT, "qwen35_mlx") | modules_below(ROOT / "app", "qwen35_chat")
OTHERS = {folder: modules_below(ROOT, folder) for folder in ("scripts", "tests", "examples")}
ALL = import_graph(PRODUCT | OTHERS["scripts"] | OTHERS["tests"] | OTHERS["examples"])

# From top to bottom; a module belongs to the longest name that it starts with.
FLOORS = (
    ("qwen35_chat",),
    ("qwen35_mlx",),  # `qwen35_mlx/__init__.py` alone: the public names
    (
        *("qwen35_mlx.convert", "qwen35_mlx.check", "qwen35_mlx.compare"),
        "qwen35_mlx.session.__main__",
    ),
    ("qwen35_mlx.server",),
    ("qwen35_mlx.session",),
    ("qwen35_mlx.distributed",),
    ("qwen35_mlx.prompt_cache",),
    ("qwen35_mlx.library",),
    ("qwen35_mlx.conversion",),
    ("qwen35_mlx.evaluation",),
    ("qwen35_mlx.checkpoint",),
    ("qwen35_mlx.generation", "qwen35_mlx.arguments", "qwen35_mlx.load_options"),
    ("qwen35_mlx.model",),
    ("qwen35_mlx.kernels",),
    ("qwen35_mlx.text",),
    (
        *("qwen35_mlx.files", "qwen35_mlx.errors", "qwen35_mlx.demo", "qwen35_mlx.untrusted_json"),
        *("qwen35_mlx.child_process", "qwen35_mlx.terminal", "qwen35_mlx.user_paths"),
        *("qwen35_mlx.command_line", "qwen35_mlx.exit_codes", "qwen35_mlx.lifetime"),
        *("qwen35_mlx.crash", "qwen35_mlx.json_text", "qwen35_mlx.progress"),
    ),
)
FLOOR_OF = {name: number for number, floor in enumerate(FLOORS) for name in floor}
# The earlier name of a command runs the command.
ALLOWED = {("qwen35_mlx.kernels.check", "qwen35_mlx.check")}

NUMERIC = {"mlx", "mlx_lm", "numpy", "transformers", "torch"}
MODELS = NUMERIC | {"tokenizers", "huggingface_hub"}


def floor_of(module: str) -> int | None:
    """The number of a module's floor, 0 at the top; None if it has none."""
    name = module
    while name not in FLOOR_OF and "." in name:
        name = name.rpartition(".")[0]
    # A new module beside the rooms must get a floor of its own.
    return None if name == "qwen35_mlx" != module else FLOOR_OF.get(name)


def upward(graph: Graph) -> list[str]:
    """The imports of `graph` that point to a higher floor."""
    return [
        f"{module} imports {target}, which is on a higher floor"
        for module, targets in sorted(graph.items())
        for target in sorted(targets)
        if (module, target) not in ALLOWED
        and (own := floor_of(module)) is not None
        and (other := floor_of(target)) is not None
        and other < own
    ]


def crossing(graph: Graph, importer: str, imported: str) -> list[str]:
    """The imports of `graph` from the package `importer` into the package `imported`."""
    return [
        f"{module} imports {target}"
        for module, targets in sorted(graph.items())
        for target in sorted(targets)
        if f"{module}.".startswith(f"{importer}.") and f"{target}.".startswith(f"{imported}.")
    ]


def test_every_module_has_a_floor():
    assert [module for module in PRODUCT if floor_of(module) is None] == []


def test_no_import_points_to_a_higher_floor():
    found = upward(ALL)
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        *(("qwen35_mlx.library", f"qwen35_mlx.{room}") for room in ("checkpoint", "model")),
        ("qwen35_mlx.library", "qwen35_mlx.kernels"),
        *((package, "scripts") for package in ("qwen35_mlx", "qwen35_chat", "examples")),
        *((package, "tests") for package in ("qwen35_mlx", "qwen35_chat", "examples", "scripts")),
        *((package, "examples") for package in ("qwen35_mlx", "qwen35_chat", "scripts")),
        ("examples", "qwen35_chat"),
        ("scripts.support", "scripts.benchmarks"),
        ("scripts.support", "scripts.demo_training"),
        ("scripts.demo_training", "scripts.benchmarks"),
    ],
)
def test_packages_stay_apart(importer, imported):
    found = crossing(ALL, importer, imported)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("part", ["product", *OTHERS])
def test_no_modules_import_each_other_in_a_circle(part):
    circle = find_circle(import_graph(OTHERS.get(part, PRODUCT)))
    assert circle is None, " imports ".join(circle)


def below(package: str) -> list[str]:
    """The package and its modules, without those that run a command when they are imported."""
    path = import_module(package).__path__
    found = [module.name for module in pkgutil.walk_packages(path, f"{package}.")]
    return [package, *(name for name in found if not name.endswith("__main__"))]


@pytest.mark.parametrize(
    ("modules", "unwanted"),
    [
        (["qwen35_mlx"], MODELS | {"textual", "jinja2"}),
        (below("qwen35_mlx.text"), NUMERIC | {"textual"}),
        (below("qwen35_mlx.library"), MODELS | {"textual", "jinja2"}),
        (
            [
                "qwen35_mlx.errors",
                "qwen35_mlx.files",
                "qwen35_mlx.demo",
                "qwen35_mlx.generation.sampling_parameters",
                "qwen35_mlx.model.config",
                "qwen35_mlx.session.events",
                "qwen35_mlx.session.requests",
                "qwen35_mlx.load_options",
            ],
            MODELS | {"textual"},
        ),
        (below("qwen35_mlx.server"), MODELS | {"textual", "jinja2"}),
        # The program `llm`, which has numpy loaded, imports its plugin.
        (
            [name for name in below("qwen35_chat") if name != "qwen35_chat.llm_plugin"],
            MODELS | {"starlette", "uvicorn", "llm"},
        ),
        # Ctrl-C ends a command in one line once its own module is there.
        ([f"qwen35_mlx.{name}" for name in ("convert", "compare", "check")], MODELS),
    ],
    ids=["public names", "text", "library", "values", "server", "app", "commands"],
)
def test_importing_does_not_load_heavy_libraries(modules, unwanted):
    code = (
        f"import importlib, sys\nfor name in {modules!r}: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert unwanted & set(run.stdout.split()) == set()


def write(root: Path, **modules: str) -> Graph:
    for name, text in modules.items():
        file = root / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return import_graph(modules_below(root, "qwen35_mlx"))


@pytest.mark.parametrize(
    "text",
    [
        "import qwen35_mlx.session.chat",
        "from qwen35_mlx.session import chat",
        "from qwen35_mlx.session.chat import Chat",
        "from ..session.chat import Chat",
        "def f():\n    from qwen35_mlx.session import chat",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import qwen35_mlx.session.chat",
        "import importlib\nimportlib.import_module('qwen35_mlx.session.chat')",
        "import runpy\nrunpy.run_module('qwen35_mlx.session.chat', run_name='__main__')",
    ],
)
def test_every_kind_of_import_is_seen(tmp_path, text):
    graph = write(tmp_path, qwen35_mlx__session__chat="", qwen35_mlx__kernels__norm=text)
    assert upward(graph) == [
        "qwen35_mlx.kernels.norm imports qwen35_mlx.session.chat, which is on a higher floor"
    ]


def test_a_circle_is_named_in_full(tmp_path):
    graph = write(
        tmp_path,
        qwen35_mlx__model__moe="from qwen35_mlx.model import cache, config",
        qwen35_mlx__model__cache="from qwen35_mlx.model.layer import Layer",
        qwen35_mlx__model__layer="def f():\n    import qwen35_mlx.model.moe",
        qwen35_mlx__model__config="",
    )
    names = ["cache", "layer", "moe", "cache"]
    assert find_circle(graph) == [f"qwen35_mlx.model.{name}" for name in names]
