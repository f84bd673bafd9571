"""Where the prompts of one turn and of the next part: what of a state will be of use again.

No template is taken apart for this. What would come next is rendered, and its tokens compared.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.prompt_cache.snapshots import common_prefix

Messages = Sequence[Mapping[str, Any]]

_ANYTHING = {"role": "user", "content": "."}
_CALLING = {
    "role": "assistant",
    "content": "",
    "reasoning_content": ".",
    "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
}


@dataclass(frozen=True, slots=True)
class PromptAnchors:
    """How messages become prompts in one conversation.

    Attributes:
        ids: the prompt that asks for a reply to messages.
        tools: whether it begins with tools, even without a system message.
    """

    ids: Callable[[Messages], list[int]]
    tools: bool = False

    def anchor(self, messages: Messages, prompt: Sequence[int]) -> int:
        """How many tokens of this prompt the next turn's will begin with.

        The prompt's end is not among them: templates drop old thinking, and what the generation
        prompt opens for it.
        """
        reply = {"role": "assistant", "content": "."}
        return common_prefix(prompt, self.ids([*messages, reply, _ANYTHING]))

    def call_anchor(self, messages: Messages, prompt: Sequence[int]) -> int:
        """The same where the reply is a tool call, and the next turn brings the tool's answer.

        More, as a rule: the thinking stays until the user asks again.
        """
        if not self.tools and not any(message["role"] == "tool" for message in messages):
            return 0
        try:
            following = self.ids([*messages, _CALLING, {"role": "tool", "content": "."}])
        except Qwen35Error:  # a template without tools
            return 0
        return common_prefix(prompt, following)

    def shared(self, messages: Messages, prompt: Sequence[int]) -> int:
        """How many tokens another conversation with this system prompt and tools begins with."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        if not system and not self.tools:
            return 0
        return common_prefix(prompt, self.ids([*system, _ANYTHING]))

    def opening(self, system: Messages) -> list[int]:
        """What every conversation begins with that has only these messages, of role "system"."""
        questions = ({"role": "user", "content": text} for text in ".a")
        one, other = (self.ids([*system, question]) for question in questions)
        return one[: common_prefix(one, other)]

    def continues(self, messages: Messages, ids: Sequence[int]) -> bool:
        """Whether the next turn's prompt begins with `ids`, the prompt and the whole reply.

        It does where tool calls are answered, and where the template drops nothing.
        """
        role = "tool" if messages[-1].get("tool_calls") else "user"
        try:
            following = self.ids([*messages, {"role": role, "content": "."}])
        except Qwen35Error:
            return False
        return common_prefix(ids, following) == len(ids)
