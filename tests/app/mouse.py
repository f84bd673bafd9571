"""A mouse for tests: its events go the way of those that a terminal sends."""

from rich.cells import cell_len
from textual import events

from tests.app.drive import Driver


class Mouse:
    """The mouse of a running app; cells count from the top left of the screen.

    A press is a second after the one before, but in a click of several.
    """

    def __init__(self, at: Driver):
        self._at = at

    async def _send(self, kind: type[events.MouseEvent], x: int, y: int, button: int) -> None:
        event = kind(
            None, x, y, 0, 0, button, False, False, False, screen_x=x, screen_y=y, style=None
        )
        self._at.app.post_message(event)
        await self._at.pilot.pause()

    async def down(self, x: int, y: int, *, again: bool = False) -> None:
        self._at.clock.now += 0 if again else 1
        await self._send(events.MouseDown, x, y, 1)

    async def move(self, x: int, y: int) -> None:
        await self._send(events.MouseMove, x, y, 1)

    async def up(self, x: int, y: int) -> None:
        await self._send(events.MouseUp, x, y, 1)
        await self._at.settled()

    async def drag(
        self, start: tuple[int, int], end: tuple[int, int], *, again: bool = False
    ) -> None:
        """Press at `start`, move to `end`, and release there."""
        await self.down(*start, again=again)
        await self.move(*end)
        await self.up(*end)

    async def click(self, x: int, y: int, times: int = 1) -> None:
        for n in range(times):
            await self.down(x, y, again=n > 0)
            await self.up(x, y)

    async def wheel(self, x: int, y: int, kind: type[events.MouseEvent]) -> None:
        """A step of the wheel; `kind` is its direction."""
        await self._send(kind, x, y, 0)
        await self._at.settled()

    def find(self, text: str, at: int = 0) -> tuple[int, int]:
        """The cell of a character of a text in the conversation, where the text comes last."""
        height = self._at.transcript.size.height  # 0 before the first message
        lines = self._at.text.splitlines()[: height or None]
        for y, line in reversed(list(enumerate(lines))):
            if (x := line.rfind(text)) >= 0:
                return cell_len(line[: x + at]), y
        raise AssertionError(f"{text!r} is not on the screen:\n{self._at.text}")

    def ends(self, text: str) -> tuple[tuple[int, int], tuple[int, int]]:
        """The cells of the first and of the last character of a text on the screen."""
        return self.find(text), self.find(text, len(text) - 1)
