"""A checkpoint's chat template, which renders messages to the text of the prompt.

Templates are downloaded code: they run in jinja2's sandbox, in a process with limits of time and
memory, on plain JSON values only.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.text.control_tokens import ControlTokens
from qwen35_mlx.text.messages import plain_arguments, plain_messages, plain_tools
from qwen35_mlx.text.template_process import LimitError, Outcome, template_process
from qwen35_mlx.text.text_files import TextFiles

_TURN_OPEN = "<|im_start|>"
_TURN_CLOSE = "<|im_end|>"
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"
THINKING_ARGUMENT = "enable_thinking"
_ADVICE = "take the chat template of the original checkpoint"


class ChatTemplate:
    """A chat template.

    Args:
        source: the jinja2 text.
        bos_token, eos_token: variables that a template may use; "" leaves one undefined.
        name: of the template in error lines.

    Attributes:
        arguments: names of the variables that the template reads, besides those of every rendering,
            such as "enable_thinking" or "reasoning_effort".

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
        self.arguments = tuple(self._run(None).split())

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
        arguments: Mapping[str, Any] | None = None,
        add_generation_prompt: bool = True,
        control_tokens: ControlTokens | None = None,
    ) -> str:
        """The text of the prompt for a conversation.

        Args:
            messages: `{"role", "content"}`, for an assistant also `reasoning_content` and
                `tool_calls`. Other forms that programs write are read as well: `plain_messages`.
            thinking: the template's `enable_thinking`; None leaves it undefined, which gives the
                model's default.
            tools: JSON schemas of the functions that the model may call.
            arguments: values of any of `self.arguments`, in JSON types.
            add_generation_prompt: whether to end with the header of the assistant's next turn.
            control_tokens: of the tokenizer that will encode the text. They are quoted in the
                messages, tools and arguments, so that only the template itself can write one.

        Raises:
            Qwen35Error: a message is malformed, the template does not read an argument, or it
                refuses the conversation; then with the template's message.
        """
        plain = plain_messages(messages)
        given = self._given(arguments or {}, thinking)
        schemas = None if tools is None else plain_tools(tools)
        if control_tokens is not None:
            plain = [control_tokens.quote_message(message) for message in plain]
            schemas = control_tokens.quote_all(schemas)
            given = {name: control_tokens.quote_all(value) for name, value in given.items()}
        variables: dict[str, Any] = {
            "messages": plain,
            "tools": schemas,
            "add_generation_prompt": add_generation_prompt,
            **self._tokens,
            **given,
        }
        return self._run(variables)

    def check_arguments(self, names: Iterable[str]) -> None:
        """Refuse the name of an argument that the template does not read.

        Raises:
            Qwen35Error: there is one; names those that it reads.
        """
        for name in names:
            if name not in self.arguments:
                known = ", ".join(self.arguments) or "none"
                raise Qwen35Error(
                    f"{self.name} does not read the argument {shown(name)}, it reads {known}: leave"
                    " it out, or take another model"
                )

    def _given(self, arguments: Mapping[str, Any], thinking: bool | None) -> dict[str, Any]:
        """The variables of a rendering that the caller sets."""
        self.check_arguments(arguments)
        given = plain_arguments(arguments)
        if thinking is not None and given.setdefault(THINKING_ARGUMENT, thinking) is not thinking:
            raise Qwen35Error(
                f"thinking is {thinking}, and the template argument {THINKING_ARGUMENT} is "
                f"{shown(given[THINKING_ARGUMENT])}: give one of them"
            )
        return given

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
