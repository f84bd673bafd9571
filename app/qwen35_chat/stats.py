"""Figures of a conversation and of a session: tokens, speeds, what was cached, drafts, context."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from qwen35_mlx.library.conversation import Conversation, Usage
from qwen35_mlx.session.events import DraftCounts

# A title, and lines that are each a name and a value.
Section = tuple[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over replies.

    Attributes:
        later: reply tokens after the first of each reply, which `decode_seconds` were spent on.
        drafted, accepted: tokens that were guessed, and those of them that were right.
    """

    replies: int = 0
    read: int = 0
    cached: int = 0
    written: int = 0
    later: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    drafted: int = 0
    accepted: int = 0

    def plus(self, usage: Usage, drafts: DraftCounts | None = None) -> "Totals":
        """These and one more reply."""
        return Totals(
            self.replies + 1,
            self.read + usage.prompt_tokens,
            self.cached + usage.cached_tokens,
            self.written + usage.reply_tokens,
            self.later + max(usage.reply_tokens - 1, 0),
            self.prefill_seconds + usage.prefill_seconds,
            self.decode_seconds + usage.decode_seconds,
            self.drafted + (drafts.drafted if drafts else 0),
            self.accepted + (drafts.accepted if drafts else 0),
        )

    def lines(self) -> list[tuple[str, str]]:
        """The sums for people; without a reply there is nothing more to say."""
        found = [("replies", f"{self.replies:,}")]
        if not self.replies:
            return found
        new = self.read - self.cached
        share = f"{self.cached:,} from the cache ({self.cached / max(self.read, 1):.0%})"
        found.append(("prompt tokens", f"{self.read:,}, {share}"))
        found.append(("reply tokens", f"{self.written:,}"))
        if new and self.prefill_seconds:
            found.append(("reading", f"{new / self.prefill_seconds:,.0f} tokens a second"))
        if self.later and self.decode_seconds:
            found.append(("writing", f"{self.later / self.decode_seconds:,.0f} tokens a second"))
        if self.drafted:
            share = f"{self.accepted / self.drafted:.0%}"
            found.append(("drafts", f"{self.accepted:,} of {self.drafted:,} accepted ({share})"))
        return found


def totals_of(stored: Conversation | None) -> Totals:
    """The sums over the stored replies of a conversation, all versions; drafts are not stored."""
    totals = Totals()
    for message in stored.messages if stored else ():
        if message.usage is not None:
            totals = totals.plus(message.usage)
    return totals


def sections(
    stored: Conversation | None, session: Totals, used: int, context: int
) -> list[Section]:
    """What there is to say.

    Args:
        stored: the conversation; None for a new one.
        session: the sums since the start, of all conversations.
        used: tokens of the conversation.
        context: tokens that the model takes; 0 while that is unknown.
    """
    now: list[tuple[str, str]] = []
    if context:
        share = f"{used:,} of {context:,} tokens in use ({used / context:.0%})"
        now = [("context", f"{share}, {max(context - used, 0):,} left")]
    here = [*totals_of(stored).lines(), *now]
    return [("This conversation, all versions", here), ("Since the start", session.lines())]


def plain_lines(found: Iterable[Section]) -> list[str]:
    """Sections as lines of text."""
    return [
        line
        for title, values in found
        for line in (f"{title}:", *(f"  {name}: {value}" for name, value in values))
    ]
