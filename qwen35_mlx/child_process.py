"""Child processes that run no code of the current folder.

`python -m` puts the current folder before the standard library, PYTHONPATH may name folders
relative to it, and so may PATH. Where that folder is a stranger's repository, a `json.py` in it
would be executed. Every child process is therefore started by what this module returns.
"""

import os
import shutil
import sys
from pathlib import Path

_OWN_PACKAGES = ("qwen35_mlx", "qwen35_chat")
# The packages are imported from their files, so that the child has this process's copies of them
# even where the current folder, which is not searched, holds them.
_BOOTSTRAP = """\
import sys
sys.path[:] = {folders}
from importlib.util import module_from_spec, spec_from_file_location
for name, file in {packages}.items():
    spec = spec_from_file_location(name, file)
    sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules[name])
from runpy import run_module
run_module({module}, run_name="__main__", alter_sys=True)
"""


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this project as `__main__`, isolated.

    The child searches the absolute entries of this process's `sys.path`, without the current
    folder, and PYTHON* variables have no effect on it.
    """
    loaded = {name: sys.modules[name].__file__ for name in _OWN_PACKAGES if name in sys.modules}
    code = _BOOTSTRAP.format(
        folders=ascii(_module_folders()),
        packages=ascii({name: str(Path(file).absolute()) for name, file in loaded.items() if file}),
        module=ascii(module),
    )
    encoding = f"utf8={sys.flags.utf8_mode}"  # so that both decode arguments and paths alike
    # Not `-P`, which still obeys PYTHONPATH and the user's sitecustomize.
    return [str(Path(sys.executable).absolute()), "-I", "-X", encoding, "-c", code, *arguments]


def child_environment() -> dict[str, str]:
    """The environment for a child: without PYTHON* variables and relative entries of PATH."""
    kept = {name: v for name, v in os.environ.items() if not name.upper().startswith("PYTHON")}
    return kept | {"PATH": _absolute_path()}


def find_program(name: str) -> str | None:
    """The absolute path of a program, found by the absolute entries of PATH; None without one."""
    path = _absolute_path()  # an empty one would make `which` use the default
    return shutil.which(name, path=path) if path and os.sep not in name else None


def _absolute_path() -> str:
    entries = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return os.pathsep.join(entry for entry in entries if Path(entry).is_absolute())


def _module_folders() -> list[str]:
    """The entries of `sys.path` that do not depend on the current folder."""
    avoided = {os.path.realpath(entry) for entry in _relative_entries()}
    absolute = [entry for entry in sys.path if Path(entry).is_absolute()]
    return [entry for entry in absolute if os.path.realpath(entry) not in avoided]


def _relative_entries() -> list[str]:
    """The current folder, and what PYTHONPATH names relative to it.

    Python makes the latter absolute when it starts, so `sys.path` does not show them.
    """
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    try:
        return [str(Path.cwd() / entry) for entry in ("", *named) if not Path(entry).is_absolute()]
    except FileNotFoundError:  # the current folder was removed, and everything in it
        return []
