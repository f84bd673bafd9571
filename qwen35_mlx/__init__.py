"""Qwen3.5 on MLX.

    import qwen35_mlx

    model = qwen35_mlx.load("demo")
    print(model.generate([{"role": "user", "content": "What is 17 + 25?"}]).text)

    chat = qwen35_mlx.Chat(model)
    for event in chat.send("My name is Ada."):
        if isinstance(event, qwen35_mlx.Answer):
            print(event.text, end="", flush=True)

A turn of a chat yields `TurnEvent`s: `PrefillProgress`, then `Thinking`, `Answer`, `ToolCall` and
`Written`, at the end `Notice` and `Done`; in a library also `TurnStarted` and `Titled`.

Names are imported on first use, so `import qwen35_mlx` costs nothing, and events import no mlx.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qwen35_mlx.compare import compare
    from qwen35_mlx.conversion.converter import convert
    from qwen35_mlx.conversion.preview import preview_conversion
    from qwen35_mlx.errors import Qwen35Error
    from qwen35_mlx.library.conversation import Usage
    from qwen35_mlx.session.chat import Chat
    from qwen35_mlx.session.events import (
        Answer,
        Cancelled,
        Done,
        DraftCounts,
        Event,
        Failed,
        Loaded,
        Loading,
        Measured,
        Notice,
        Opened,
        PrefillProgress,
        ProcessesJoined,
        ProcessesLost,
        Queued,
        Reply,
        Thinking,
        Titled,
        ToolCall,
        TurnEvent,
        TurnStarted,
        Unloaded,
        Written,
    )
    from qwen35_mlx.session.load import load
    from qwen35_mlx.session.model import Model
    from qwen35_mlx.session.reply_options import ReplyArguments

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "Cancelled",
    "Chat",
    "Done",
    "DraftCounts",
    "Event",
    "Failed",
    "Loaded",
    "Loading",
    "Measured",
    "Model",
    "Notice",
    "Opened",
    "PrefillProgress",
    "ProcessesJoined",
    "ProcessesLost",
    "Queued",
    "Qwen35Error",
    "Reply",
    "ReplyArguments",
    "Thinking",
    "Titled",
    "ToolCall",
    "TurnEvent",
    "TurnStarted",
    "Unloaded",
    "Usage",
    "Written",
    "compare",
    "convert",
    "load",
    "preview_conversion",
]

# The modules of names that are not events.
_MODULES = {
    "Chat": "session.chat",
    "Model": "session.model",
    "Qwen35Error": "errors",
    "ReplyArguments": "session.reply_options",
    "Usage": "library.conversation",
    "compare": "compare",
    "convert": "conversion.converter",
    "load": "session.load",
    "preview_conversion": "conversion.preview",
}


class _Package(ModuleType):
    """Imports names on first use. `qwen35_mlx.convert` is the function, never the module."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing the module `qwen35_mlx.convert` sets an attribute of that name.
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in __all__:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        module = import_module(f"{__name__}.{_MODULES.get(name, 'session.events')}")
        value = getattr(module, name)
        setattr(self, name, value)
        return value


sys.modules[__name__].__class__ = _Package
