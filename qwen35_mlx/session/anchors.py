"""Anchors: the positions in a prompt up to which later prompts will be the same.

No template is parsed for this. A probe, such as what the next turn may look like, is rendered and
its tokens are compared with the prompt's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.prompt_cache.snapshots import common_prefix_length
from qwen35_mlx.text.messages import SYSTEM_ROLES

Messages = Sequence[Mapping[str, Any]]

_PROBE_QUESTION = {"role": "user", "content": "."}
_PROBE_REPLY = {"role": "assistant", "content": "."}
_PROBE_TOOL_RESULT = {"role": "tool", "content": "."}
_PROBE_TOOL_CALL = {
    "role": "assistant",
    "content": "",
    "reasoning_content": ".",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
}


@dataclass(frozen=True, slots=True)
class PromptAnchors:
    """The anchors of one conversation's prompts.

    Attributes:
        render: the token ids of the prompt for a reply to messages.
        has_tools: whether prompts describe tools, even without a system message.
    """

    render: Callable[[Messages], list[int]]
    has_tools: bool = False

    def anchor(self, messages: Messages, prompt: Sequence[int]) -> int:
        """Number of tokens of `prompt` that the next turn's prompt will begin with.

        The end of the prompt is usually not among them: templates drop old thinking, along with
        what the generation prompt opens for it.
        """
        probe = self.render([*messages, _PROBE_REPLY, _PROBE_QUESTION])
        return common_prefix_length(prompt, probe)

    def tool_call_anchor(self, messages: Messages, prompt: Sequence[int]) -> int:
        """The anchor if the reply is a tool call, and the next turn brings the tool's result.

        It usually lies further on: templates keep the thinking until the user's next message.
        """
        if not self.has_tools and not any(message["role"] == "tool" for message in messages):
            return 0
        try:
            probe = self.render([*messages, _PROBE_TOOL_CALL, _PROBE_TOOL_RESULT])
        except Qwen35Error:  # the template does not support tools
            return 0
        return common_prefix_length(prompt, probe)

    def system_anchor(self, messages: Messages, prompt: Sequence[int]) -> int:
        """Number of tokens that other conversations with this system prompt and tools share."""
        system = [message for message in messages if message["role"] in SYSTEM_ROLES]
        if not system and not self.has_tools:
            return 0
        return common_prefix_length(prompt, self.render([*system, _PROBE_QUESTION]))

    def system_prefix(self, system: Messages) -> list[int]:
        """The tokens that all conversations with these messages, of role "system", begin with."""
        questions = ({"role": "user", "content": text} for text in ".a")
        one, other = (self.render([*system, question]) for question in questions)
        return one[: common_prefix_length(one, other)]

    def continues(self, messages: Messages, ids: Sequence[int]) -> bool:
        """Whether the next turn's prompt begins with all of `ids`.

        It does after tool calls, and with templates that drop nothing.

        Args:
            messages: the conversation including the newest reply.
            ids: the tokens of the prompt and of the reply.
        """
        role = "tool" if messages[-1].get("tool_calls") else "user"
        try:
            probe = self.render([*messages, {"role": role, "content": "."}])
        except Qwen35Error:
            return False
        return common_prefix_length(ids, probe) == len(ids)
