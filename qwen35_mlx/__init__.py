"""Qwen3.5 on MLX.

    import qwen35_mlx

    model = qwen35_mlx.load("demo")
    chat = qwen35_mlx.Chat(model)
    for event in chat.send("My name is Ada."):
        ...

Names are imported on first use, so that `import qwen35_mlx` costs nothing.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen35_mlx.convert import convert as convert
    from qwen35_mlx.errors import Qwen35Error as Qwen35Error
    from qwen35_mlx.session.chat import Chat as Chat
    from qwen35_mlx.session.model import Model as Model
    from qwen35_mlx.session.model import load as load

__version__ = "0.1.0"

_HOMES = {
    "Chat": "session.chat",
    "Model": "session.model",
    "Qwen35Error": "errors",
    "convert": "convert",
    "load": "session.model",
}
__all__ = ["Chat", "Model", "Qwen35Error", "convert", "load"]


class _Package(ModuleType):
    """`qwen35_mlx.convert` is the function, also once the module of that name is imported."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        setattr(self, name, value)
        return value


sys.modules[__name__].__class__ = _Package
