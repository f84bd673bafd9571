"""An engine that plays scripts instead of running a model."""

from collections import deque
from collections.abc import Sequence

from textual.pilot import Pilot

from qwen35_mlx.session.events import (
    Answer,
    Done,
    Event,
    Figures,
    FinishReason,
    Loaded,
    Loading,
    PrefillProgress,
    Thinking,
)
from qwen35_mlx.session.requests import Request, Send

CONTEXT = 4096


def done(reason: FinishReason = "stop", *, prompt: int = 100, reply: int = 20) -> Done:
    figures = Figures(
        prompt_tokens=prompt,
        cached_tokens=0,
        reply_tokens=reply,
        prefill_seconds=0.25,
        decode_seconds=0.5,
        peak_memory=1 << 20,
    )
    return Done(reason, figures, {"role": "assistant", "content": ""})


def reply(*pieces: str, thinking: str = "") -> list[Event]:
    """The events of a whole turn."""
    thoughts: list[Event] = [Thinking(thinking)] if thinking else []
    return [PrefillProgress(0, 100, 0), *thoughts, *map(Answer, pieces), done()]


class FakeEngine:
    """Gives what the test puts in `events`, one `poll` at a time.

    Attributes:
        calls: what the screen has asked for.
    """

    def __init__(self, *, loads: bool = True):
        self.calls: list[str | tuple[str, str]] = []
        self._loads = loads
        self._ready: deque[Event] = deque()
        self._polls = 0

    @property
    def sent(self) -> list[str]:
        return [call[1] for call in self.calls if isinstance(call, tuple)]

    def play(self, events: Sequence[Event]) -> None:
        """Have the next poll give these."""
        self._ready.extend(events)

    async def shown(self, pilot: Pilot[None], events: Sequence[Event] = ()) -> None:
        """Play `events` and wait until the screen has taken them in."""
        self.play(events)
        seen = self._polls
        # A poll begins only after the events of the one before it are dealt with.
        for _ in range(500):
            if self._polls >= seen + 2:
                break
            await pilot.pause(0.01)
        else:
            raise AssertionError("the screen has stopped polling")
        await pilot.pause()

    def start(self) -> None:
        self.calls.append("start")
        self.play([Loading("demo")])
        if self._loads:
            self.play([Loaded("demo", CONTEXT)])

    def ask(self, request: Request) -> None:
        assert isinstance(request, Send)
        self.calls.append(("send", request.text))

    def cancel(self) -> None:
        self.calls.append("cancel")

    def poll(self) -> list[Event]:
        self._polls += 1
        events = list(self._ready)
        self._ready.clear()
        return events

    def close(self) -> None:
        self.calls.append("close")
