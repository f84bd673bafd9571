"""Compaction: a summary in place of the oldest turns of a conversation, to free context.

The turns are read in parts that fit into the context, each with the summary of the parts before it,
so that a history of any length becomes one summary.
"""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error, TooLongError
from qwen35_mlx.library.conversation import SUMMARY_HEADING, Message
from qwen35_mlx.library.transcript import Transcript
from qwen35_mlx.prompt_cache.snapshots import SnapshotCache
from qwen35_mlx.session.chat_settings import readable_settings, turn_options
from qwen35_mlx.session.events import PrefillProgress, Written
from qwen35_mlx.session.history_parts import CountedMessage, HistoryParts, counted
from qwen35_mlx.session.model import Model
from qwen35_mlx.session.reply_options import ReplyOptions, Tools
from qwen35_mlx.session.turn import Turn
from qwen35_mlx.text.language import written_in

# Newest turns that stay as they are, if they take at most this share of the context.
RECENT_TURNS, RECENT_SHARE = 2, 0.5
# The longest summary, in tokens and as a share of the context.
SUMMARY_TOKENS, SUMMARY_SHARE = 4096, 0.125
# A part of the history that does not fit after all is taken this much shorter.
SHORTER = 0.75
# The shortest part that is worth a summary.
LEAST_TOKENS = 64
REQUEST = (
    "Summarise our conversation up to here, for yourself to go on from. Keep names, numbers, "
    "facts, decisions and open questions, those of an earlier summary too; leave out greetings. "
    "Write the summary only, in {language}."
)
_Events = Generator[PrefillProgress | Written]


def compact(
    model: Model, transcript: Transcript, snapshots: SnapshotCache, tools: Tools | None
) -> _Events:
    """Summarise the oldest turns of a transcript, and select a new path with the summary.

    The progress is that of all parts, in tokens of the history.

    Raises:
        Qwen35Error: at once, if there is no message; while iterating, if there is nothing to
            summarise, no room for a summary, or none is written.
    """
    if not transcript.tree.path():
        raise _nothing(0)
    return _Compaction(model, transcript, snapshots, tools).run()


class _Compaction:
    """One compaction. Arguments: see `compact`."""

    def __init__(
        self, model: Model, transcript: Transcript, snapshots: SnapshotCache, tools: Tools | None
    ):
        self._model = model
        self._transcript = transcript
        self._snapshots = snapshots
        settings, _ = readable_settings(transcript.tree.settings, model)
        self._longest = min(SUMMARY_TOKENS, int(model.context * SUMMARY_SHARE))
        given = ReplyOptions(
            max_tokens=self._longest, thinking=False, tool_choice="none" if tools else None
        )
        self._options = turn_options(settings, tools, given)
        path = transcript.tree.path()
        self._system, self._summary = transcript.tree.settings.system, None
        if path[0].role == "system":
            self._summary = path[0].summary
            self._system = path[0].content.partition(SUMMARY_HEADING)[0].strip() or None
            path = path[1:]
        self._history = [message for message in path if not message.abandoned]
        questions = [message.content for message in self._history if message.role == "user"]
        language = written_in(reversed(questions))
        self._request = {"role": "user", "content": REQUEST.format(language=language)}

    def run(self) -> _Events:
        messages = yield from self._count()
        cut = first_kept(messages, int(self._model.context * RECENT_SHARE))
        parts = HistoryParts(messages[:cut])
        total, done = sum(one.tokens for one in messages[:cut]), 0
        share = 1.0
        while parts:
            room = int(share * self._room())
            if room < LEAST_TOKENS:
                raise TooLongError(
                    "the system prompt and the tools leave no room to sum up the conversation: "
                    "shorten them, or start a new conversation"
                )
            part = parts.take(room)
            turn = self._turn(part)
            if turn is None:
                parts.put_back(part)
                share *= SHORTER
                yield PrefillProgress(done, total, 0)
                continue
            tokens = sum(one.tokens for one in part)
            yield from self._write(turn, done, tokens, total)
            done += tokens
        kept = self._history[cut:]
        self._transcript.add_all([_with_summary(self._system, self._summary), *kept])

    def _count(self) -> Generator[PrefillProgress, None, list[CountedMessage]]:
        """The history with its tokens."""
        messages: list[CountedMessage] = []
        total = 0
        for message in self._history:
            messages.append(counted(message.for_template(), self._model.tokenizer.encode))
            total += messages[-1].tokens
            yield PrefillProgress(0, total, 0)
        return messages

    def _messages(self, part: Sequence[CountedMessage]) -> list[Mapping[str, Any]]:
        """What the model is to sum up, and the request."""
        before: list[Mapping[str, Any]] = []
        if self._system is not None or self._summary is not None:
            before = [_with_summary(self._system, self._summary).for_template()]
        return [*before, *(one.message for one in part), self._request]

    def _room(self) -> int:
        """Tokens that a part of the history may have."""
        around = len(self._model.prompt_ids(self._messages(()), self._options))
        return self._model.context - self._longest - around

    def _turn(self, part: Sequence[CountedMessage]) -> Turn | None:
        """The turn that sums up a part; None if it does not fit into the context or the memory."""
        try:
            turn = self._model.turn(self._messages(part), self._model.make_cache(), self._options)
        except TooLongError:
            return None
        return turn if len(turn.prompt) + self._longest <= self._model.context else None

    def _write(self, turn: Turn, done: int, tokens: int, total: int) -> _Events:
        """Run a turn that sums up the next `tokens` of `total`, after those that are `done`."""
        self._snapshots.restore(turn.prompt, turn.cache)
        for event in turn.run():
            if isinstance(event, PrefillProgress):
                scale = tokens / event.total
                read, cached = done + int(event.done * scale), int(event.cached * scale)
                yield PrefillProgress(read, total, cached)
            else:
                # The text is not shown, but every token is an event at which it can be cancelled.
                yield Written(len(turn.reply_ids))
        self._summary = turn.content.text
        if not self._summary:
            raise Qwen35Error("the model wrote no summary: try again, or start a new conversation")


def first_kept(messages: Sequence[CountedMessage], room: int) -> int:
    """The number of messages, from the start, to summarise; the newest turns stay.

    Args:
        room: tokens that may stay.

    Raises:
        Qwen35Error: there is nothing that should be summarised.
    """
    turns = [n for n, one in enumerate(messages) if one.begins_turn]
    starts = turns[-RECENT_TURNS:] if len(turns) > RECENT_TURNS else [0, *turns[1:]]
    for start in starts:
        if sum(one.tokens for one in messages[start:]) <= room:
            if not start:
                raise _nothing(len(turns))
            return start
    return len(messages)


def _nothing(turns: int) -> Qwen35Error:
    return Qwen35Error(
        f"there is nothing to summarise: the newest {RECENT_TURNS} turns stay as they are, and "
        f"there {'is' if turns == 1 else 'are'} {turns}"
    )


def _with_summary(system: str | None, summary: str | None) -> Message:
    """The message that a path begins with."""
    parts = [system, summary and f"{SUMMARY_HEADING}\n{summary}"]
    return Message(0, None, "system", "\n\n".join(part for part in parts if part))
