"""The tools of a window: offered to the model, asked about, and run between two replies."""

from typing import Any

from qwen35_chat.running_turn import RunningTurn
from qwen35_chat.tools.calling import Answer, Calling, Question
from qwen35_chat.tools.calls import Tool
from qwen35_chat.tools.permissions import Permission
from qwen35_chat.tools.toolbox import OfferedTool, Toolbox
from qwen35_chat.transitions import QueueReturned, Transition, TurnContinued, TurnEnded
from qwen35_chat.window import Window
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.events import Cancelled, Event, Notice
from qwen35_mlx.session.requests import AddResults, OfferTools, Request, SendResults

HOLD_SECONDS = 15.0  # for which a turn waits for servers that are starting


class ToolWindow(Window):
    """A window with tools.

    Args:
        toolbox: None for none. It is started with the window, and the caller closes it.
        notices: lines to show at the start.
    """

    def __init__(
        self,
        *arguments: Any,
        toolbox: Toolbox | None = None,
        notices: list[str] | None = None,
        **named: Any,
    ):
        super().__init__(*arguments, **named)
        self.toolbox = toolbox
        self._tool_notices = notices or []
        self._offered: tuple[OfferedTool, ...] = ()
        self._held: Request | None = None  # a turn that waits for servers
        self._held_until = 0.0

    @property
    def question(self) -> Question | None:
        """What waits for `answer_tool`."""
        calling = self.turn.calling if self.turn is not None else None
        return calling.question if calling is not None else None

    def require_toolbox(self) -> Toolbox:
        """The tools, of which there must be some."""
        if self.toolbox is None:
            raise Qwen35Error(
                "there are no tools: name servers in mcp.json beside the settings, or a folder "
                "with --tools-folder"
            )
        return self.toolbox

    def answer_tool(self, answer: Answer) -> None:
        """Answer the question, if it still waits. Errors of storing it become a `Problem`."""
        if self.question is not None and self.turn is not None and self.turn.calling is not None:
            self.turn.calling.answer(answer)
            if answer in ("always", "never"):
                self._save_permissions()

    def allow_tool(self, tool: Tool, permission: Permission) -> None:
        """Whether a tool may run, from now on."""
        self.require_toolbox().allow(tool, permission)
        self._save_permissions()

    def switch_tools(self, server: str, *, on: bool) -> None:
        """Switch a server on or off, from now on."""
        self.require_toolbox().switch(server, on=on)
        self._save_permissions()

    def _save_permissions(self) -> None:
        self.calls.start("files", self.require_toolbox().permissions.save)

    def end_calls(self) -> None:
        """Stop the calls that are being run and store the results; the window closes."""
        if self.turn is not None and self.turn.calling is not None:
            self.turn.calling.stop()
            self._step_calls()

    # Called as events are polled

    def _watch_tools(self) -> list[Transition]:
        """Offer the tools that there are now, and say what has failed."""
        if self.toolbox is None:
            lines, self._tool_notices = self._tool_notices, []
            return [Notice(line) for line in lines]
        lines, self._tool_notices = [*self._tool_notices, *self.toolbox.failures()], []
        self._offer_tools(self.toolbox)
        return [Notice(line) for line in lines]

    def _offer_tools(self, toolbox: Toolbox) -> None:
        """Offer the model the tools that there are now, if they are others than before."""
        offered = toolbox.offered()
        if offered != self._offered:
            self._offered = offered
            self.engine.submit(OfferTools(tuple(tool.for_model() for tool in offered)))

    def _submit_turn(self, request: Request) -> None:
        """Request a turn, once the servers have answered: it should have all tools."""
        if self.toolbox is not None and self.toolbox.starting:
            self._held = request
            self._held_until = self._clock() + HOLD_SECONDS
        else:
            # In plain mode nothing has been polled since the last turn.
            if self.toolbox is not None:
                self._offer_tools(self.toolbox)
            self.engine.submit(request)

    def _release_turn(self) -> list[Event]:
        """Submit the request that is held back, if it is time; the events if it was stopped."""
        if self._held is None or self.toolbox is None:
            return []
        if self.stopping:
            self._held = None
            return [Cancelled()]
        if not self.toolbox.starting or self._clock() >= self._held_until:
            request, self._held = self._held, None
            self._offer_tools(self.toolbox)
            self.engine.submit(request)
        return []

    def _begin_calls(self, turn: RunningTurn) -> bool:
        """Begin with the calls of a reply that has ended; False if there is nothing to run."""
        if self.toolbox is None or not turn.calls:
            return False
        rounds = turn.rounds + 1
        calling = Calling(turn.calls, self.toolbox, rounds, self._clock)
        self.turn = RunningTurn(self._clock, rounds=rounds, calling=calling)
        return True

    def _step_calls(self) -> list[Transition]:
        """Take the calls as far as they go, and send their results when there are all of them."""
        turn = self.turn
        if turn is None or turn.calling is None:
            return []
        changes: list[Transition] = [*turn.calling.step()]
        if not turn.calling.done:
            return changes
        results = tuple(turn.calling.results)
        if turn.calling.stopped:
            return [*changes, *self._keep_results(results)]
        self.turn = RunningTurn(self._clock, rounds=turn.rounds, results=results)
        self.engine.submit(SendResults(results))
        return [*changes, TurnContinued()]

    def _keep_results(self, results: tuple[str, ...]) -> list[Transition]:
        """End a turn whose results get no reply: what a tool has done is done."""
        self.turn = None
        self.engine.submit(AddResults(results))
        return [TurnEnded("Stopped."), *self._return_queue()]

    def _return_queue(self) -> list[Transition]:
        """Give up on the queue: the turn that it waits for may never come."""
        text = "\n\n".join(self.queue)
        self.queue.clear()
        return [QueueReturned(text)] if text else []
