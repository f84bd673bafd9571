"""A checkpoint's chat template: messages in, the prompt's text out.

Templates are written for the environment that `transformers` gives them (which tags, filters and
functions exist, how whitespace is trimmed), and the model was trained on what they print, so the
environment here does the same. They come with a download: they run in jinja2's sandbox and see only
plain JSON values.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line, read_json_object, read_text
from qwen35_mlx.text.messages import plain_message, plain_tools

_TURN_OPEN = "<|im_start|>"
_TURN_CLOSE = "<|im_end|>"
_THINK_OPEN = "<think>"
_THINK_CLOSE = "</think>"


class ChatTemplate:
    """A compiled chat template.

    `name` is how error lines call it. `bos_token` and `eos_token` are variables that a template may
    use; an empty one stays undefined.
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
        except Exception as error:  # compiling odd input also ends in plain Python errors
            raise Qwen35Error(
                f"{name} cannot be compiled ({one_line(error)}): take the chat template of the"
                " original checkpoint"
            ) from error

    @classmethod
    def from_directory(cls, path: Path) -> "ChatTemplate":
        """The template of the checkpoint in `path`: chat_template.jinja, else chat_template.json,
        else tokenizer_config.json. Of several named ones, the one called "default".

        Raises Qwen35Error when there is none, or when it is unreadable or broken.
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
    ) -> str:
        """The prompt's text for a conversation.

        messages: `{"role", "content"}`, for an assistant also `reasoning_content` and `tool_calls`.
            `arguments` of a call may be a mapping or its JSON text: templates iterate over it.
            Missing content is "" beside tool calls or reasoning.
        thinking: the template's `enable_thinking`; None leaves it undefined, for the model's own
            default.
        tools: JSON schemas of the functions on offer.

        Raises Qwen35Error, with the template's own words when it refuses the conversation.
        """
        variables: dict[str, Any] = {
            "messages": [plain_message(message, index) for index, message in enumerate(messages)],
            "tools": None if tools is None else plain_tools(tools),
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
        except Exception as error:  # a template is a program: any error can come out of it
            raise Qwen35Error(
                f"{self.name} fails on this conversation ({type(error).__name__}:"
                f" {one_line(error)}): take the chat template of the original checkpoint"
            ) from error

    def thinks_by_default(self) -> bool:
        """Whether the model thinks when nobody says otherwise: small models' templates close the
        <think> block in the prompt, larger ones' leave it open. Found by rendering, once."""
        return self._thinks_by_default

    @cached_property
    def _thinks_by_default(self) -> bool:
        return self.opens_thinking(self.render([{"role": "user", "content": "Hello"}]))

    @staticmethod
    def opens_thinking(rendered: str) -> bool:
        """Whether a prompt ends inside an open <think> block, so that the reply starts in it.

        Only the last turn counts, and only a block that opens it: a message may well speak of
        <think>. A prompt without Qwen's turn marks must end with the tag.
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
    """Raised by a template that calls `raise_exception`."""


class _GenerationBlock(jinja2.ext.Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's own words, for training masks.
    Here it prints its body; names set inside stay inside."""

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
    # jinja2's own filter escapes HTML and sorts keys; models were trained on plain JSON.
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: object) -> None:
    raise _RefusalError(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _find_source(path: Path, config: Mapping[str, Any]) -> tuple[str, Path]:
    file = path / "chat_template.jinja"
    if file.is_file():
        return read_text(file), file
    for file, holder in (
        (path / "chat_template.json", read_json_object(path / "chat_template.json")),
        (path / "tokenizer_config.json", config),
    ):
        if holder.get("chat_template") is not None:
            return _default_source(holder["chat_template"], file), file
    raise Qwen35Error(
        f"{path} has no chat template: add the chat_template.jinja of the original checkpoint"
    )


def _default_source(entry: object, file: Path) -> str:
    if isinstance(entry, str):
        return entry
    named = {}
    if isinstance(entry, list):
        named = {item.get("name"): item.get("template") for item in entry if isinstance(item, dict)}
    source = named.get("default")
    if not isinstance(source, str):
        there = ", ".join(sorted(map(repr, named))) or "none"
        raise Qwen35Error(
            f"{file} has no chat template called 'default' (there: {there}): add the"
            " chat_template.jinja of the original checkpoint"
        )
    return source


def _token_text(token: object) -> str:
    """A special token in tokenizer_config.json: its text, or a mapping with it, or null."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else ""
