"""The sessions of a `RequestEngine`: conversations of its library that clients go on with."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qwen35_mlx.errors import BusyError, Qwen35Error, shown
from qwen35_mlx.library.conversation import Conversation
from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session.changing_lines import without_changing_lines
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.chat_prompts import messages_before
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.new_messages import placed
from qwen35_mlx.session.reply_requests import ReplyRequest
from qwen35_mlx.session.running_reply import RunningReply

# Characters of a name.
LONGEST_NAME = 200


class Sessions:
    """Begins replies in sessions, one at a time in each.

    While a reply is written, its session is claimed: no other window or engine writes to it.
    Between replies it is free.

    Args:
        library: None for an engine without sessions.
    """

    def __init__(self, library: Library | None):
        self._library = library
        self._open: set[str] = set()

    def in_use(self, request: ReplyRequest) -> bool:
        """Whether a reply in the request's session is being written here."""
        return request.title in self._open

    def messages(self, request: ReplyRequest) -> Sequence[Mapping[str, Any]]:
        """All messages that a request is about, those that its session holds included.

        Raises:
            Qwen35Error: it has messages that cannot be stored.
        """
        messages = without_changing_lines(request.messages)
        if request.title is None or self._library is None:
            return messages
        number = self._library.titled(request.title)
        tree = Conversation(0, "") if number is None else self._library.conversation(number)
        place = placed(tree, messages)
        tree = replace(tree, settings=place.settings)
        return [*messages_before(tree, place.parent), *place.added]

    def begin(self, model: Model, request: ReplyRequest, snapshots: SnapshotCache) -> RunningReply:
        """The reply to a request with a session, not yet started.

        The session is made when the reply starts, if it is missing.

        Raises:
            BusyError: the session is open elsewhere.
            Qwen35Error: the request is not valid, its prompt does not fit, or nothing can be
                stored.
        """
        library, title = self._library, request.title
        assert title is not None
        if library is None:
            raise Qwen35Error("sessions are not kept here: leave out the session")
        if not 0 < len(title) <= LONGEST_NAME:
            raise Qwen35Error(
                f"the session is called {shown(title)}: give it a name of 1 to {LONGEST_NAME}"
                " characters"
            )
        if request.prompt is not None:
            raise Qwen35Error("a session takes messages, and there is a prompt: give messages")
        if library.read_only:
            raise Qwen35Error(f"{library.file} cannot be written: leave out the session")
        if not library.titles.claim(title):
            raise _busy(title)
        try:
            return self._begin(library, title, model, request, snapshots)
        except BaseException:
            library.titles.release(title)
            raise

    def _begin(
        self,
        library: Library,
        title: str,
        model: Model,
        request: ReplyRequest,
        snapshots: SnapshotCache,
    ) -> RunningReply:
        chat = Chat(
            model,
            library=library,
            conversation=library.titled(title),
            title=title,
            snapshots=snapshots,
        )
        try:
            if chat.read_only:
                raise _busy(title)
            events = chat.reply_to(without_changing_lines(request.messages), **request.options)
        except BaseException:
            chat.close()
            raise
        assert events.turn is not None
        self._open.add(title)

        def close() -> None:
            try:
                chat.close()
            finally:
                library.titles.release(title)
                self._open.discard(title)

        def abandon(line: str) -> None:
            if chat.recorder is not None:
                chat.recorder.abandon(line)

        return RunningReply(events.turn, events, close, abandon)


def _busy(title: str) -> BusyError:
    return BusyError(
        f"the session {shown(title)} is open in another window or program: close it there, or try"
        " again later"
    )
