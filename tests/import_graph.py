"""The imports between the modules of a source tree, read from their syntax trees."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

Graph = Mapping[str, frozenset[str]]  # module -> the modules that it imports
# Functions that import the module named by their first argument.
IMPORTERS = {"__import__", "import_module", "run_module"}


def modules_below(root: Path, *folders: str) -> dict[str, Path]:
    """The Python files in these folders, by dotted name relative to `root`."""
    files = (file for folder in folders for file in sorted((root / folder).rglob("*.py")))
    return {_dotted_name(file.relative_to(root)): file for file in files}


def import_graph(modules: Mapping[str, Path]) -> Graph:
    """The imports among `modules`.

    Includes imports inside functions, under `TYPE_CHECKING`, and by `import_module` or
    `run_module` with a literal name. An import of `a.b` counts for `a.b` alone, although Python
    runs `a` as well: otherwise every package that imports its own modules would be a circle.
    """
    return {
        name: frozenset(_imports(name, file, modules)) - {name} for name, file in modules.items()
    }


def find_circle(graph: Graph) -> list[str] | None:
    """One circle of imports, such as ["a", "b", "a"], or None if there is none."""
    finished: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str] | None:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return None
        for imported in sorted(graph.get(module, ())):
            if circle := visit(imported, [*path, module]):
                return circle
        finished.add(module)
        return None

    return next((circle for module in sorted(graph) if (circle := visit(module, []))), None)


def _dotted_name(file: Path) -> str:
    parts = file.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(name: str, file: Path, modules: Mapping[str, Path]) -> Iterator[str]:
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names):
                yield from (alias.name for alias in names if alias.name in modules)
            case ast.ImportFrom(module, names, level):
                base = module or ""
                if level:
                    parents = package.split(".")[: len(package.split(".")) - level + 1]
                    base = ".".join([*parents, *filter(None, [module])])
                for alias in names:
                    targets = (f"{base}.{alias.name}", base)
                    yield from [target for target in targets if target in modules][:1]
            case ast.Call(func, [ast.Constant(str(target)), *_]) if target in modules:
                called = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
                if called in IMPORTERS:
                    yield target
