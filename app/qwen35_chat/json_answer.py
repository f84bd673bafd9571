"""The answer of `qwen35-chat -p --json`: one JSON object for programs."""

import secrets
from collections.abc import Sequence
from typing import Any

from qwen35_mlx.json_text import write_json
from qwen35_mlx.library.conversation import Usage
from qwen35_mlx.session.events import Answer, Done, Notice, Thinking, ToolCall, TurnEvent
from qwen35_mlx.text.reply import ReplyEvent, join_events


class JsonAnswer:
    """Collects the events of a prompt's turns, of which there are several where tools run.

    Args:
        model: its name, as given.
    """

    def __init__(self, model: str):
        self._model = model
        self._texts: list[str] = []
        self._thinking: list[str] = []
        self._calls: list[ToolCall] = []
        self._notices: list[str] = []
        self._usages: list[Usage] = []
        self._finish_reason: str | None = None
        self._turn: list[ReplyEvent] = []

    def add_notice(self, line: str) -> None:
        self._notices.append(line)

    def add(self, event: TurnEvent) -> None:
        match event:
            case Thinking() | Answer() | ToolCall():
                self._turn.append(event)
            case Notice(line):
                self.add_notice(line)
            case Done(finish_reason, usage):
                self._end_turn()
                self._usages.append(usage)
                self._finish_reason = finish_reason
            case _:
                pass

    def _end_turn(self) -> None:
        content, self._turn = join_events(self._turn), []
        self._texts += [content.text] if content.text else []
        self._thinking += [content.thinking] if content.thinking else []
        self._calls += content.tool_calls

    def text(self) -> str:
        """The JSON object on one line, once the last turn has ended.

        - `text`, `thinking`: without whitespace at their ends; those of several turns have blank
          lines between them.
        - `tool_calls`: those that got no result, in OpenAI's form.
        - `finish_reason`: of the last turn, as in `qwen35_mlx.Reply`.
        - `usage`: sums over the turns, under the names of `qwen35_mlx.Usage`.
        - `notices`: lines for the user.
        """
        return write_json(
            {
                "model": self._model,
                "text": "\n\n".join(self._texts),
                "thinking": "\n\n".join(self._thinking),
                "tool_calls": [_call(call) for call in self._calls],
                "finish_reason": self._finish_reason,
                "usage": _usage(self._usages),
                "notices": self._notices,
            },
            separators=(", ", ": "),
        )


def _call(call: ToolCall) -> dict[str, Any]:
    arguments = write_json(dict(call.arguments), separators=(", ", ": "))
    function = {"name": call.name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _usage(turns: Sequence[Usage]) -> dict[str, Any]:
    decode_seconds = sum(usage.decode_seconds for usage in turns)
    # The first token of each reply comes out of the prefill.
    decoded = sum(max(usage.reply_tokens - 1, 0) for usage in turns)
    return {
        "prompt_tokens": sum(usage.prompt_tokens for usage in turns),
        "cached_tokens": sum(usage.cached_tokens for usage in turns),
        "reply_tokens": sum(usage.reply_tokens for usage in turns),
        "reasoning_tokens": sum(usage.reasoning_tokens or 0 for usage in turns),
        "prefill_seconds": round(sum(usage.prefill_seconds for usage in turns), 4),
        "decode_seconds": round(decode_seconds, 4),
        "tokens_per_second": round(decoded / decode_seconds, 2) if decode_seconds else None,
    }
