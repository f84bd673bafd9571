"""A reply of a `RequestEngine` that is being read or written."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session.cached_turn import CachedTurn
from qwen35_mlx.session.changing_lines import without_changing_lines
from qwen35_mlx.session.chat_prompts import prompt_anchors
from qwen35_mlx.session.events import Done, TurnEvent
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import CompletionArguments, ReplyOptions
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.messages import plain_messages


@dataclass(frozen=True, slots=True)
class RunningReply:
    """A turn and its events.

    Attributes:
        events: the last of them is `Done`.
        close: cancels the turn unless it is complete, and gives up what it holds.
        abandon: saves a turn that hangs as failed, in any thread; takes a line about that.
    """

    turn: Turn
    events: Generator[TurnEvent]
    close: Callable[[], None]
    abandon: Callable[[str], None]

    @property
    def unread(self) -> int:
        """Tokens of the prompt that are to be read before the first token of the reply."""
        turn = self.turn
        return 0 if turn.reply_ids else max(turn.prefill_end - turn.cache.offset, 0)


def stateless_reply(model: Model, request: ReplyRequest, snapshots: SnapshotCache) -> RunningReply:
    """The reply to a request without a session, not yet started.

    Raises:
        Qwen35Error: the request is not valid, or its prompt does not fit.
    """
    cache = model.make_cache()
    if request.prompt is None:
        options = ReplyOptions.of(request.options)
        messages = plain_messages(without_changing_lines(request.messages))
        turn = model.turn(messages, cache, options)
        cached = CachedTurn(turn, snapshots, messages, prompt_anchors(model, options))
    elif request.messages:
        raise Qwen35Error("there are both messages and a prompt: give one of them")
    else:
        options = ReplyOptions.of(request.options, CompletionArguments)
        turn = model.completion(request.prompt, cache, options)
        cached = CachedTurn(turn, snapshots)
    events = _run(cached)
    return RunningReply(turn, events, events.close, lambda line: None)


def _run(cached: CachedTurn) -> Generator[TurnEvent]:
    """The events of a turn, which is in the prompt cache before the last of them."""
    done, failed = None, False
    try:
        for event in cached.run():
            if isinstance(event, Done):
                done = event
                break
            yield event
    except GeneratorExit:
        raise
    except BaseException:
        failed = True
        raise
    finally:
        cached.end(None if failed else cached.turn.content.for_template())
    assert done is not None
    yield done
