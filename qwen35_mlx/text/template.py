"""A checkpoint's chat template, which renders messages to the text of the prompt.

Templates are downloaded code: they run in jinja2's sandbox, in a process with limits of time and
memory, on plain JSON values only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.control_tokens import ControlTokens
from qwen35_mlx.text.messages import plain_message, plain_tools
from qwen35_mlx.text.template_process import LimitError, Outcome, template_process
from qwen35_mlx.text.text_files import TextFiles

_TURN_OPEN = "<|im_start|>"
_TURN_CLOSE = "<|im_end|>"
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"
_ADVICE = "take the chat template of the original checkpoint"


class ChatTemplate:
    """A chat template.

    Args:
        source: the jinja2 text.
        bos_token, eos_token: variables that a template may use; "" leaves one undefined.
        name: of the template in error lines.

    Raises:
        Qwen35Error: the template does not compile.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        name: str = "the chat template",
    ) -> None:
        self.name = name
        tokens = {"bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {key: token for key, token in tokens.items() if token}
        self._source = source
        self._run(None)

    @classmethod
    def from_files(cls, files: TextFiles) -> "ChatTemplate | None":
        """The template of a checkpoint; None if it has none.

        Raises:
            Qwen35Error: it does not compile.
        """
        if files.chat_template is None:
            return None
        return cls(
            files.chat_template,
            bos_token=_token_text(files.tokenizer_config.get("bos_token")),
            eos_token=_token_text(files.tokenizer_config.get("eos_token")),
            name=files.where(files.template_name),
        )

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        control_tokens: ControlTokens | None = None,
    ) -> str:
        """The text of the prompt for a conversation.

        Args:
            messages: `{"role", "content"}`, for an assistant also `reasoning_content` and
                `tool_calls`. The `arguments` of a call may be a mapping or its JSON text; templates
                iterate over the mapping. Content may be missing beside tool calls or reasoning.
            thinking: the template's `enable_thinking`; None leaves it undefined, which gives the
                model's default.
            tools: JSON schemas of the functions that the model may call.
            add_generation_prompt: whether to end with the header of the assistant's next turn.
            control_tokens: of the tokenizer that will encode the text. They are quoted in the
                messages and tools, so that only the template itself can write one.

        Raises:
            Qwen35Error: a message is malformed, or the template refuses the conversation; then
                with the template's message.
        """
        plain = [plain_message(message, index) for index, message in enumerate(messages)]
        schemas = None if tools is None else plain_tools(tools)
        if control_tokens is not None:
            plain = [control_tokens.quote_message(message) for message in plain]
            schemas = control_tokens.quote_all(schemas)
        variables: dict[str, Any] = {
            "messages": plain,
            "tools": schemas,
            "add_generation_prompt": add_generation_prompt,
            **self._tokens,
        }
        if thinking is not None:
            variables["enable_thinking"] = thinking
        return self._run(variables)

    def _run(self, variables: Mapping[str, Any] | None) -> str:
        """The rendered text; "" if `variables` is None and the template is only compiled."""
        try:
            outcome, text = template_process().run(self._source, variables)
        except LimitError as error:
            raise Qwen35Error(f"{self.name} {error}: {_ADVICE}") from None
        match outcome:
            case Outcome.TEXT:
                return text
            case Outcome.SYNTAX_ERROR:
                raise Qwen35Error(f"{self.name} is broken {text}: {_ADVICE}")
            case Outcome.COMPILE_ERROR:
                raise Qwen35Error(f"{self.name} cannot be compiled ({text}): {_ADVICE}")
            case Outcome.REFUSAL:
                raise Qwen35Error(
                    f"{self.name} refuses this conversation: {text!r}; change the messages to fit"
                    " it"
                )
            case Outcome.ERROR:
                raise Qwen35Error(f"{self.name} fails on this conversation ({text}): {_ADVICE}")

    @staticmethod
    def opens_thinking(rendered: str) -> bool:
        """Whether a prompt ends inside an open <think> block, so that the reply starts in it.

        Only a block at the start of the last turn counts, since a message may mention <think>. A
        prompt without Qwen's turn marks must end with the tag.
        """
        _, mark, turn = rendered.rpartition(_TURN_OPEN)
        if not mark:
            return rendered.rstrip().endswith(_THINK_OPEN)
        role, _, text = turn.partition("\n")
        return (
            role.strip() == "assistant"
            and text.lstrip().startswith(_THINK_OPEN)
            and _THINK_CLOSE not in text
            and _TURN_CLOSE not in text
        )


def _token_text(token: object) -> str:
    """The text of a special token, given as a string, as a mapping that holds it, or as null."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""
