"""Draw docs/chat.svg, the picture in the README, from a real chat with a model.

scripts/chat --version && .venv/bin/python -m scripts.make_picture [MODEL] [MESSAGE...]
"""

import asyncio
import re
import sys
import tempfile
from pathlib import Path

from qwen35_chat.app import ChatApp
from qwen35_chat.controller import Controller
from qwen35_chat.settings_file import SettingsFile

from qwen35_mlx.library.library import Library
from qwen35_mlx.session.engine import EngineThread

PICTURE = Path(__file__).parents[1] / "docs" / "chat.svg"
MESSAGES = [
    "My name is Ada.",
    "How do I change the model?",
    "Show me a formula",
    "What is my name?",
]
SIZE = (80, 26)


async def draw(model: str, messages: list[str], library: Library) -> str:
    """The screen as SVG, after the model has replied to each message."""
    settings = SettingsFile(None, {"model": model, "sampling": {"temperature": 0.0}})
    settings.load()
    engine = EngineThread(model, library=library)
    app = ChatApp(Controller(engine, library, settings), demo=model == "demo")
    try:
        async with app.run_test(size=SIZE) as pilot:
            while not app.controller.loaded:
                await pilot.pause(0.1)
            for message in messages:
                app.chat.composer.set_text(message)
                await pilot.press("enter")
                while app.controller.busy:
                    await pilot.pause(0.1)
            await pilot.pause(0.5)
            return app.export_screenshot()
    finally:
        app.controller.calls.close(5)
        engine.close()


def main() -> None:
    model, *messages = sys.argv[1:] or ["demo"]
    with tempfile.TemporaryDirectory() as folder, Library(Path(folder)) as library:
        svg = asyncio.run(draw(model, messages or MESSAGES, library))
    # Pages that embed the picture do not load fonts from other servers.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
