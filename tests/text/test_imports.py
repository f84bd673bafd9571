"""The text room imports no numeric libraries."""

import json
import pkgutil
import subprocess
import sys

import qwen35_mlx.text

HEAVY = {"mlx", "mlx_lm", "numpy", "transformers", "torch", "textual"}


def test_text_never_imports_mlx():
    names = [f"qwen35_mlx.text.{module.name}" for module in walk()]
    assert len(names) >= 4
    code = (
        "import importlib, json, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(run.stdout))


def walk() -> list[pkgutil.ModuleInfo]:
    return list(pkgutil.iter_modules(qwen35_mlx.text.__path__))
