"""Requests for a reply to a `RequestEngine`: plain values that may cross threads and processes."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.library.rows import replace_surrogates
from qwen35_mlx.session.events import Cancelled, Done, Event, Failed, Loading


@dataclass(frozen=True, slots=True)
class ReplyRequest:
    """What a client wants a reply to: messages, or a raw prompt.

    Attributes:
        messages: as chat templates take them; empty if there is a prompt.
        prompt: a raw text, in which nothing is a control token, or token ids.
        options: `ReplyArguments` for messages, `CompletionArguments` for a prompt: `max_tokens`,
            `temperature` and so on. A `reasoning_effort` that no template reads is ignored.
        session: the title of a conversation of the library, which is made if it is missing; None
            for a reply that is not stored.
        client: who sent it; requests of one client wait for each other.
        model: as for `qwen35_mlx.load`; None for the one that the engine was started with.
    """

    messages: tuple[Mapping[str, Any], ...] = ()
    prompt: str | tuple[int, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    session: str | None = None
    client: str = ""
    model: str | None = None

    @property
    def title(self) -> str | None:
        """The title of the session's conversation, in which white space is as in all titles."""
        return None if self.session is None else replace_surrogates(" ".join(self.session.split()))


@dataclass(frozen=True, slots=True)
class EngineTotals:
    """What a `RequestEngine` has done since it was made.

    Attributes:
        requests: for a reply; those for the length of a prompt are not among them.
        completed, cancelled, failed: requests by their end; only those that are complete count in
            the sums below.
        prompt_tokens: of prompts that were read or restored; `cached_tokens` of them were restored.
        prefill_seconds, decode_seconds: summed over replies, which may run at the same time.
    """

    requests: int = 0
    completed: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    reply_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def with_end(self, last: Event) -> "EngineTotals":
        """These and the end of one more request, by its last event."""
        match last:
            case Done():
                return self._with_reply(last.usage)
            case Cancelled():
                return replace(self, cancelled=self.cancelled + 1)
            case Failed():
                return replace(self, failed=self.failed + 1)
            case _:
                return self

    def _with_reply(self, usage: Usage) -> "EngineTotals":
        return replace(
            self,
            completed=self.completed + 1,
            prompt_tokens=self.prompt_tokens + usage.prompt_tokens,
            cached_tokens=self.cached_tokens + usage.cached_tokens,
            reply_tokens=self.reply_tokens + usage.reply_tokens,
            prefill_seconds=self.prefill_seconds + usage.prefill_seconds,
            decode_seconds=self.decode_seconds + usage.decode_seconds,
        )


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """What a `RequestEngine` does now.

    Attributes:
        model: the name of the loaded model; None without one.
        context: tokens that its prompts and replies may have together; None without a model.
        loading: the latest news of the load in progress; None without one.
        active: replies that are being read or written.
        queued: requests that wait.
        lost: a line about the loss of another process that ran the model; "" without one.
    """

    model: str | None = None
    context: int | None = None
    loading: Loading | None = None
    active: int = 0
    queued: int = 0
    totals: EngineTotals = EngineTotals()
    lost: str = ""
