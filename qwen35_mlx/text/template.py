"""A checkpoint's chat template, which renders messages to the text of the prompt.

Templates are written for the jinja2 environment of `transformers` (its tags, filters, functions and
whitespace rules), and the model was trained on their output, so the environment here is the same.
They are downloaded code: they run in jinja2's sandbox, on plain JSON values only.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line, read_json_object, read_text
from qwen35_mlx.text.control_tokens import MARK, ControlTokens
from qwen35_mlx.text.messages import plain_message, plain_tools

_TURN_OPEN = "<|im_start|>"
_TURN_CLOSE = "<|im_end|>"
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"


class ChatTemplate:
    """A compiled chat template.

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
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise Qwen35Error(
                f"{name} is broken at line {error.lineno} ({one_line(error.message or error)}):"
                " take the chat template of the original checkpoint"
            ) from error
        except Exception as error:  # for odd input, plain Python errors too
            raise Qwen35Error(
                f"{name} cannot be compiled ({one_line(error)}): take the chat template of the"
                " original checkpoint"
            ) from error

    @classmethod
    def from_directory(cls, path: Path) -> "ChatTemplate":
        """The template of the checkpoint in the folder `path`.

        It is in chat_template.jinja, else in chat_template.json, else in tokenizer_config.json.
        Of several named templates, "default" is taken.

        Raises:
            Qwen35Error: there is none, or it is unreadable or does not compile.
        """
        config = read_json_object(path / "tokenizer_config.json")
        source, file = _find_source(path, config)
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
        try:
            return self._template.render(variables)
        except _RefusalError as error:
            raise Qwen35Error(
                f"{self.name} refuses this conversation: {one_line(error)!r}; change the messages"
                " to fit it"
            ) from error
        except Exception as error:  # a template is a program and can raise anything
            raise Qwen35Error(
                f"{self.name} fails on this conversation ({type(error).__name__}:"
                f" {one_line(error)}): take the chat template of the original checkpoint"
            ) from error

    def thinks_by_default(self) -> bool:
        """Whether the model thinks if `thinking` is None.

        The templates of small models close the <think> block in the prompt, those of larger ones
        leave it open.
        """
        return self.opens_thinking(self.render([{"role": "user", "content": "Hello"}]))

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


class _RefusalError(jinja2.TemplateError):
    """A template called `raise_exception`."""


class _GenerationBlock(jinja2.ext.Extension):
    """The block `{% generation %}...{% endgeneration %}`: renders its body in a scope of its own.

    In training, the block marks the assistant's text.
    """

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as a plain set

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=lineno)


def _environment() -> jinja2.Environment:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # jinja2's filter escapes HTML and sorts keys, but models were trained on plain JSON.
    text = json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
    return text.replace(json.dumps(MARK)[1:-1], MARK) if ensure_ascii else text


def _raise_exception(message: object) -> None:
    raise _RefusalError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _find_source(path: Path, tokenizer_config: Mapping[str, Any]) -> tuple[str, Path]:
    """The text of a checkpoint's template, and the file that holds it."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return read_text(file), file
    for file, content in (
        (path / "chat_template.json", read_json_object(path / "chat_template.json")),
        (path / "tokenizer_config.json", tokenizer_config),
    ):
        if content.get("chat_template") is not None:
            return _default_source(content["chat_template"], file), file
    raise Qwen35Error(
        f"{path} has no chat template: add the chat_template.jinja of the original checkpoint"
    )


def _default_source(entry: object, file: Path) -> str:
    """The template in a `chat_template` entry: a text, or a list of named ones."""
    if isinstance(entry, str):
        return entry
    named = {}
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
