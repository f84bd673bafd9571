"""Draw docs/chat.svg, the picture of the app in the README: a real chat with a model.

scripts/chat --version && .venv/bin/python scripts/make_picture.py [MODEL] [MESSAGE...]
"""

import asyncio
import re
import sys
from pathlib import Path

from qwen35_chat.app import ChatApp
from qwen35_chat.widgets.composer import Composer
from qwen35_chat.widgets.status import Status

from qwen35_mlx.session.engine import EngineThread
from qwen35_mlx.session.requests import Configure

PICTURE = Path(__file__).parents[1] / "docs" / "chat.svg"
MESSAGES = ["My name is Ada.", "What is 47 + 38?", "What is my name?"]
SIZE = (80, 26)


async def draw(model: str, messages: list[str]) -> str:
    """The screen after these messages were answered, as SVG."""
    engine = EngineThread(model, settings=Configure(sampling={"temperature": 0.0}))
    app = ChatApp(engine, model="demo", demo=True)
    try:
        async with app.run_test(size=SIZE) as pilot:
            status = app.query_one(Status)
            for message in messages:
                app.query_one(Composer).text = message
                await pilot.press("enter")
                while "Esc" in str(status.render()):
                    await pilot.pause(0.1)
            await pilot.pause()
            return app.export_screenshot()
    finally:
        engine.close()


def main() -> None:
    model, *messages = sys.argv[1:] or ["demo"]
    svg = asyncio.run(draw(model, messages or MESSAGES))
    # Pages that show the picture do not load fonts from elsewhere.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
