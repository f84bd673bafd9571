"""An engine without a model that plays scripted events, for tests and `qwen35-chat --fake`."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation, FinishReason, Message, Usage
from qwen35_mlx.library.library import Library
from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Done,
    Event,
    Failed,
    Loaded,
    Loading,
    Measured,
    Opened,
    PrefillProgress,
    Thinking,
    Titled,
    ToolCall,
    TurnStarted,
    Unloaded,
)
from qwen35_mlx.session.requests import (
    AddResults,
    Compact,
    Configure,
    Continue,
    Edit,
    OfferTools,
    Open,
    Request,
    Retry,
    Select,
    Send,
    SendResults,
    Unload,
    UseModel,
)

CONTEXT = 4096
CALL = "call "  # begins a line that the demonstration answers with a call
# Maps a user message to events, each with its delay in seconds after the previous one.
Script = Callable[[str], Iterable[tuple[float, Event]]]


def done(reason: FinishReason = "stop", *, prompt: int = 100, reply: int = 20) -> Done:
    """The last event of a turn, with made-up usage."""
    usage = Usage(
        prompt_tokens=prompt,
        cached_tokens=0,
        reply_tokens=reply,
        prefill_seconds=0.25,
        decode_seconds=0.5,
        peak_memory=1 << 20,
    )
    return Done(reason, usage, {"role": "assistant", "content": ""})


def demonstration(text: str) -> Iterable[tuple[float, Event]]:
    """A script with prefill, thinking and a Markdown answer, at the pace of a model.

    Lines such as `call files__read {"path": "a"}` are answered by these calls.
    """
    if calls := [line for line in text.splitlines() if line.startswith(CALL)]:
        for line in calls:
            name, _, arguments = line.removeprefix(CALL).partition(" ")
            yield 0.05, ToolCall(name, json.loads(arguments or "{}"))
        yield 0.02, done("tool_calls")
        return
    for position in range(0, 1025, 128):
        yield 0.05, PrefillProgress(position, 1024, 0)
    for word in [
        "The",
        "user",
        "wants",
        "to",
        "see",
        "something.",
        "I",
        "shall",
        "show",
        "a",
        "little",
        "of",
        "everything.",
        "",
    ]:
        yield 0.03, Thinking(word + " ")
    answer = f"""You wrote **{len(text.split())} words**. Here is a list:

1. a *first* point
2. a second, with `code`

```python
def greet(name: str) -> str:
    return f"Hello, {{name}}!"
```

| what | how much |
|---|---|
| model | none: this engine plays a script |
"""
    for at in range(0, len(answer), 4):
        yield 0.02, Answer(answer[at : at + 4])
    yield 0.02, done(prompt=1024, reply=len(answer) // 4)


class FakeEngine:
    """Plays a script for each message, or the events that a test passes to `play`.

    Args:
        library: receives the messages, as with a real engine; None stores nothing.
        script: the events of each reply; None if a test plays them.
        loads: whether `start` loads the model at once.
        model: the model's name.
        clock: the current time in seconds.

    Attributes:
        calls: all calls of `start`, `cancel` and `close`, and all submitted requests, in order.
        polls: the number of calls of `poll`.
    """

    def __init__(
        self,
        library: Library | None = None,
        *,
        script: Script | None = None,
        loads: bool = True,
        model: str = "demo",
        clock: Callable[[], float] = time.monotonic,
    ):
        self.calls: list[Request | str] = []
        self.polls = 0
        self._library = library
        self._script = script
        self._loads = loads
        self._model = model
        self._clock = clock
        self._ready: deque[Event] = deque()
        self._timed: deque[tuple[float, Event]] = deque()
        self._conversation: int | None = None
        self._partial: Message | None = None  # the reply that is being written
        self._before: int | None = None  # the end of the path before it

    @property
    def sent(self) -> list[str]:
        return [call.text for call in self.calls if isinstance(call, Send)]

    def play(self, events: Sequence[Event]) -> None:
        """Return these events from the next `poll`."""
        self._ready.extend(events)

    # The engine protocol

    def start(self) -> None:
        self.calls.append("start")
        self.play([Loading(self._model)])
        if self._loads:
            self.play([Loaded(self._model, CONTEXT)])

    def submit(self, request: Request) -> None:
        self.calls.append(request)
        try:
            self._take(request)
        except Qwen35Error as error:
            self.play([Failed(str(error))])

    def cancel(self) -> None:
        self.calls.append("cancel")
        if self._script is not None and self._timed:
            self._timed.clear()
            self.play([Cancelled()])

    def poll(self) -> list[Event]:
        self.polls += 1
        now = self._clock()
        while self._timed and self._timed[0][0] <= now:
            self._ready.append(self._timed.popleft()[1])
        events = list(self._ready)
        self._ready.clear()
        for event in events:
            self._record(event)
        return events

    def close(self) -> None:
        self.calls.append("close")

    # Requests, with the effects on the library that a real engine has

    def _take(self, request: Request) -> None:
        match request:
            case UseModel(model):
                self._model = model
                self.play([Loading(model), Loaded(model, CONTEXT)])
            case Unload():
                self.play([Unloaded()])
            case Open(conversation, _):
                self._open(conversation)
            case Send(text):
                self._reply(text, None if self._library is None else self._leaf())
            case Retry(message) if self._library is not None:
                found = self._stored().message(message)
                answered = found.id if found.role == "tool" else found.parent
                assert answered is not None
                self._begin(self._stored().message(answered).content, answered, self._leaf())
            case Continue(message, text) if self._library is not None:
                self._continue(self._stored().message(message), text)
            case Edit(message, text) if self._library is not None:
                self._reply(text, self._stored().message(message).parent)
            case Select(message) if self._library is not None:
                assert self._conversation is not None
                self._library.select(self._conversation, self._stored().newest_leaf(message))
                self._open(self._conversation)
            case Compact():
                self.play([Failed("nothing to compact: the conversation is short")])
            case SendResults(results):
                self._begin("\n".join(results), self._add_results(results), None)
            case AddResults(results):
                self._add_results(results)
            case Configure() | OfferTools():
                pass
            case _:
                pass

    def _open(self, conversation: int | None) -> None:
        if self._library is None or conversation is None:
            self._conversation = None
            self.play([Opened(None)])
            return
        read_only = not self._library.claim(conversation)
        if self._conversation not in (None, conversation):
            self._library.release(self._conversation)
        self._conversation = conversation
        title = self._stored().title
        self.play([Opened(conversation, title, read_only), Measured(conversation, 100, 100)])

    def _stored(self) -> Conversation:
        assert self._library is not None
        assert self._conversation is not None
        return self._library.conversation(self._conversation)

    def _leaf(self) -> int | None:
        return None if self._conversation is None else self._stored().leaf

    def _reply(self, text: str, parent: int | None) -> None:
        if self._library is None:
            self._schedule(text)
            return
        new = self._conversation is None
        if self._conversation is None:
            self._conversation = self._library.create(model=self._model)
            self._library.claim(self._conversation)
        before = self._leaf()
        user = self._library.add_message(self._conversation, Message(0, parent, "user", text))
        if new:
            self.play([Titled(self._conversation, self._stored().title)])
        self._begin(text, user.id, before)

    def _add_results(self, results: Sequence[str]) -> int:
        assert self._library is not None
        assert self._conversation is not None
        parent = self._leaf()
        for result in results:
            added = Message(0, parent, "tool", result)
            parent = self._library.add_message(self._conversation, added).id
        assert parent is not None
        return parent

    def _begin(self, text: str, user: int, before: int | None) -> None:
        """Begin a reply. `before`: the end of the path, that an empty one leaves selected."""
        assert self._library is not None
        assert self._conversation is not None
        empty = Message(0, user, "assistant", "", state="partial", model=self._model)
        reply = self._library.add_message(self._conversation, empty)
        self._partial, self._before = reply, before
        self.play([TurnStarted(self._conversation, user, reply.id)])
        self._schedule(text)

    def _continue(self, reply: Message, text: str | None) -> None:
        """Begin another version of a reply with what it begins with."""
        assert reply.parent is not None
        self._begin("", reply.parent, self._leaf())
        thinking = [Thinking(reply.thinking)] if reply.thinking else []
        self.play([*thinking, Answer(reply.content if text is None else text)])

    def _schedule(self, text: str) -> None:
        if self._script is None:
            return
        at = self._clock()
        for seconds, event in self._script(text):
            at += seconds
            self._timed.append((at, event))

    def _record(self, event: Event) -> None:
        """Apply an event of the turn to the reply in the library."""
        reply = self._partial
        if reply is None or self._library is None:
            return
        match event:
            case Answer(text):
                self._partial = replace(reply, content=reply.content + text)
                self._library.save(self._partial, durable=False)
            case ToolCall():
                calls = (*reply.tool_calls, event.for_template())
                self._partial = replace(reply, tool_calls=calls)
            case Thinking(text):
                self._partial = replace(reply, thinking=reply.thinking + text)
                self._library.save(self._partial, durable=False)
            case Done(reason, usage):
                self._finish(replace(reply, state="complete", finish_reason=reason, usage=usage))
            case Cancelled():
                self._finish(replace(reply, state="cancelled"))
            case Failed(message):
                self._finish(replace(reply, state="failed", error=message))
            case _:
                pass

    def _finish(self, reply: Message) -> None:
        assert self._library is not None
        self._library.save(reply)
        self._partial = None
        stored = self._stored()
        if reply.abandoned and (
            reply.parent is None or stored.message(reply.parent).role != "tool"
        ):
            self._library.select(stored.id, self._before)
