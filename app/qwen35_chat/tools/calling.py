"""The tool calls of one reply: asked about, run one after another, and answered."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Literal

from qwen35_chat.tools.calls import ERROR, Tool, ToolResult
from qwen35_chat.tools.toolbox import Toolbox
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.reply import ToolCall

Answer = Literal["once", "always", "no", "never"]
ANSWERS: tuple[Answer, ...] = ("once", "always", "no", "never")
# Rounds of calls and replies to one message, after which the user is asked whether to go on.
MAX_ROUNDS = 25

REFUSED = "the user does not allow this call"
STOPPED = "the user stopped this call"
NOT_RUN = "this call was not run, since the user stopped the turn"
UNKNOWN = "there is no such tool"


@dataclass(frozen=True, slots=True)
class CallQuestion:
    """Whether a call may run."""

    call: ToolCall
    tool: Tool


@dataclass(frozen=True, slots=True)
class RoundsQuestion:
    """Whether to go on after many rounds. "once" goes on, every other answer stops."""

    rounds: int


Question = CallQuestion | RoundsQuestion


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call has its result.

    Attributes:
        name: as the model calls the tool.
        text: the result, as the model gets it.
        seconds: that the tool took; None if it was not run.
    """

    name: str
    text: str
    seconds: float | None = None


class Calling:
    """The calls of one reply.

    Args:
        rounds: how many replies to the same message have called tools, this one included.
        clock: seconds.

    Attributes:
        question: that waits for `answer`; None for none.
        running: the tool that runs; None for none.
        results: of the calls so far, for the model.
        stopped: no other call runs, and the model gets no turn.
    """

    def __init__(
        self,
        calls: Sequence[ToolCall],
        toolbox: Toolbox,
        rounds: int,
        clock: Callable[[], float],
    ):
        self.question: Question | None = None
        self.running: Tool | None = None
        self.results: list[str] = []
        self.stopped = False
        self._calls = calls
        self._toolbox = toolbox
        self._clock = clock
        self._future: Future[ToolResult] | None = None
        self._started = 0.0
        if rounds and rounds % MAX_ROUNDS == 0:
            self.question = RoundsQuestion(rounds)

    @property
    def done(self) -> bool:
        """Every call has its result."""
        return len(self.results) == len(self._calls)

    @property
    def seconds(self) -> float:
        """How long the tool has been running."""
        return self._clock() - self._started

    def step(self) -> list[CallEnded]:
        """Take the calls as far as they go without waiting."""
        ended: list[CallEnded] = []
        while not self.done and self.question is None:
            if self._future is None:
                self._begin()
            elif self._future.done():
                ended.append(self._finish(self._future))
            else:
                break
        return ended

    def answer(self, answer: Answer) -> None:
        """Answer the question. "always" and "never" are permissions, which the caller saves."""
        question, self.question = self.question, None
        match question:
            case RoundsQuestion():
                self.stopped = answer != "once"
            case CallQuestion(call, tool):
                if answer in ("always", "never"):
                    self._toolbox.allow(tool, answer)
                if answer in ("once", "always"):
                    self._run(call, tool)
                else:
                    self._future = _answered(REFUSED)
            case None:
                pass

    def stop(self) -> None:
        """Give up on the tool that runs, and run no other."""
        self.stopped, self.question = True, None
        if self._future is not None and not self._future.done():
            self._future.cancel()
            self._future = _answered(STOPPED)

    def _begin(self) -> None:
        call = self._calls[len(self.results)]
        tool = self._toolbox.find(call.name)
        if self.stopped:
            self._future = _answered(NOT_RUN)
        elif tool is None:
            self._future = _answered(UNKNOWN)
        elif self._toolbox.permissions.of(tool) == "always":
            self._run(call, tool)
        else:
            self.question = CallQuestion(call, tool)

    def _run(self, call: ToolCall, tool: Tool) -> None:
        self.running, self._started = tool, self._clock()
        try:
            self._future = self._toolbox.call(tool, call.arguments)
        except Qwen35Error as error:
            self._future = _answered(str(error))

    def _finish(self, future: Future[ToolResult]) -> CallEnded:
        result = ToolResult(STOPPED, error=True) if future.cancelled() else future.result()
        seconds = self.seconds if self.running is not None else None
        self._future = self.running = None
        text = f"{ERROR}{result.text}" if result.error else result.text
        name = self._calls[len(self.results)].name
        self.results.append(text)
        return CallEnded(name, text, seconds)


def _answered(reason: str) -> Future[ToolResult]:
    """The result of a call that does not run."""
    future: Future[ToolResult] = Future()
    future.set_result(ToolResult(reason, error=True))
    return future
