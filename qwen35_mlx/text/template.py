"""A checkpoint's chat template, which renders messages to the text of the prompt.

Templates are downloaded code: they run in jinja2's sandbox, in a process with limits of time and
memory, on plain JSON values only.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import read_json_object, read_text
from qwen35_mlx.text.control_tokens import ControlTokens
from qwen35_mlx.text.messages import plain_message, plain_tools
from qwen35_mlx.text.template_process import LimitError, Outcome, template_process

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
    def from_directory(cls, path: Path) -> "ChatTemplate | None":
        """The template of the checkpoint in the folder `path`; None if it has none.

        It is in chat_template.jinja, else in chat_template.json, else in tokenizer_config.json.
        Of several named templates, "default" is taken. An empty one is none.

        Raises:
            Qwen35Error: it is unreadable or does not compile, or none is called "default".
        """
        config = read_json_object(path / "tokenizer_config.json")
        if (found := _find_source(path, config)) is None:
            return None
        source, file = found
        return cls(
            source,
            bos_token=_token_text(config.get("bos_token")),
            eos_token=_token_text(config.get("eos_token")),
            name=str(file),
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


def _find_source(path: Path, tokenizer_config: Mapping[str, Any]) -> tuple[str, Path] | None:
    """The text of a checkpoint's template, and the file that holds it; None if it has none."""
    file = path / "chat_template.jinja"
    if os.path.lexists(file) and (source := read_text(file)).strip():
        return source, file
    for file, content in (
        (path / "chat_template.json", read_json_object(path / "chat_template.json")),
        (path / "tokenizer_config.json", tokenizer_config),
    ):
        if entry := content.get("chat_template"):
            source = _default_source(entry, file)
            return (source, file) if source.strip() else None
    return None


def _default_source(entry: object, file: Path) -> str:
    """The template in a `chat_template` entry: a text, or named ones as a list or by name."""
    if isinstance(entry, str):
        return entry
    named = entry if isinstance(entry, dict) else {}
    if isinstance(entry, list):
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
    source = named.get("default")
    if not isinstance(source, str):
        names = ", ".join(sorted(map(repr, named))) or "none"
        raise Qwen35Error(
            f"{file} has no chat template called 'default' (there: {names}): add the"
            " chat_template.jinja of the original checkpoint"
        )
    return source


def _token_text(token: object) -> str:
    """The text of a special token, given as a string, as a mapping that holds it, or as null."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""
