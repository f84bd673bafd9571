"""The start of a reply that is there already, for the model to go on from."""

from collections.abc import Callable
from dataclasses import dataclass

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.rows import replace_surrogates
from qwen35_mlx.session.new_messages import last_reply
from qwen35_mlx.text.reply import Answer, ReplyEvent, Thinking
from qwen35_mlx.text.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class ReplyStart:
    """What a reply begins with.

    Attributes:
        answer: so far; "" if the reply ends within its thinking.
        thinking: closed if there is an answer.
        thinking_seconds: how long it took; None if unknown.
    """

    answer: str
    thinking: str = ""
    thinking_seconds: float | None = None

    @property
    def events(self) -> list[ReplyEvent]:
        """The start as the events of a reply."""
        thinking = [Thinking(self.thinking)] if self.thinking else []
        return [*thinking, Answer(self.answer)] if self.answer else [*thinking]

    def after(self, rendered: str, quote: Callable[[str], str]) -> str:
        """A rendered prompt with this start of its reply, as the model would have written it.

        Args:
            quote: marks what might be read as a control token.

        Raises:
            Qwen35Error: the thinking is to go on, and the prompt leaves no room for any.
        """
        thinking, answer = quote(self.thinking), quote(self.answer)
        if ChatTemplate.opens_thinking(rendered):
            return rendered + (f"{thinking}\n</think>\n\n{answer}" if self.answer else thinking)
        if not self.answer:
            raise Qwen35Error(
                "this reply ends within its thinking, and the model's template opens none: retry it"
            )
        return rendered + answer


def reply_to_continue(tree: Conversation, message: int | None) -> tuple[Message, int]:
    """A reply that the model can go on from, and the id of the message that it answers.

    Args:
        message: its id; None for the last one of the selected path.

    Raises:
        Qwen35Error: there is no such reply, or it calls tools.
    """
    reply = tree.message(last_reply(tree) if message is None else message)
    if reply.role != "assistant" or reply.parent is None:
        raise Qwen35Error(f"message {reply.id} is not a reply to anything: name one of the model's")
    if reply.tool_calls:
        raise Qwen35Error("this reply calls a tool, so it cannot go on: retry it")
    return reply, reply.parent


def start_of(reply: Message, text: str | None) -> ReplyStart:
    """The start that a reply gives, or its thinking and another answer.

    Args:
        text: the answer in place of the reply's; None for that. Blanks at its end are left out,
            since the model's words begin with theirs.

    Raises:
        Qwen35Error: there is nothing to go on from.
    """
    answer = reply.content if text is None else replace_surrogates(text).rstrip(" \t")
    if not (answer.strip() or (text is None and reply.thinking)):
        raise Qwen35Error("there is no text to go on from: write its beginning, or retry the reply")
    return ReplyStart(answer, reply.thinking, reply.thinking_seconds)
