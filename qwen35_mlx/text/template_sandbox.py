"""The program in which chat templates run, started by `TemplateProcess`.

Templates are written for the jinja2 environment of `transformers` (its tags, filters, functions and
whitespace rules), and the model was trained on their output, so the environment here is the same.
"""

import json
import marshal
import os
import resource
import sys
import threading
import time
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from qwen35_mlx.files import one_line
from qwen35_mlx.text.control_tokens import MARK
from qwen35_mlx.text.template_arguments import template_arguments
from qwen35_mlx.text.template_process import LENGTH_BYTES, MAX_MEMORY, OUT_OF_MEMORY, READY, Outcome

# How often the memory is measured where the system does not enforce a limit, as on macOS.
WATCH_SECONDS = 0.02
TEMPLATES = 8  # compiled ones that are kept
MAX_ERROR_CHARACTERS = 300


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


def environment() -> jinja2.Environment:
    """jinja2 as `transformers` sets it up."""
    result = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationBlock, jinja2.ext.loopcontrols],
    )
    result.filters["tojson"] = _tojson
    result.globals["raise_exception"] = _raise_exception
    result.globals["strftime_now"] = _strftime_now
    return result


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


@lru_cache(TEMPLATES)
def _compiled(source: str) -> jinja2.Template:
    return environment().from_string(source)


def answer(source: str, variables: dict[str, Any] | None) -> tuple[Outcome, str]:
    """Render a template; if `variables` is None, compile it and list its arguments."""
    try:
        template = _compiled(source)
        if variables is None:
            return Outcome.TEXT, "\n".join(template_arguments(environment(), source))
    except jinja2.TemplateSyntaxError as error:
        return Outcome.SYNTAX_ERROR, f"at line {error.lineno} ({_line(error.message or error)})"
    except Exception as error:  # for odd input, plain Python errors too
        return Outcome.COMPILE_ERROR, _line(error)
    try:
        return Outcome.TEXT, template.render(variables)
    except _RefusalError as error:
        return Outcome.REFUSAL, _line(error)
    except Exception as error:  # a template is a program and can raise anything
        return Outcome.ERROR, f"{type(error).__name__}: {_line(error)}"


def _line(error: object) -> str:
    """The message of an error as one line of limited length."""
    line = one_line(error)
    if len(line) <= MAX_ERROR_CHARACTERS:
        return line
    return line[:MAX_ERROR_CHARACTERS] + " ..."


def limit_memory() -> None:
    """End this process before it takes more than `MAX_MEMORY`."""
    with suppress(ValueError, OSError):  # macOS does not know this limit
        resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    # Linux counts the memory of the parent, as it was when this process began, as its own peak.
    limit = _peak_memory() + MAX_MEMORY
    threading.Thread(target=_watch_memory, args=(limit,), daemon=True).start()


def _watch_memory(limit: int) -> None:
    while _peak_memory() <= limit:
        time.sleep(WATCH_SECONDS)
    os._exit(OUT_OF_MEMORY)


def _peak_memory() -> int:
    """The most memory that this process has had, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Answer requests until standard input ends."""
    limit_memory()
    with suppress(BrokenPipeError), open(0, "rb") as requests, open(1, "wb") as answers:
        answers.write(READY)
        answers.flush()
        while length := requests.read(LENGTH_BYTES):
            request = requests.read(int.from_bytes(length, "little"))
            outcome, text = answer(*marshal.loads(request))
            data = bytes([outcome]) + text.encode("utf-8", "surrogatepass")
            answers.write(len(data).to_bytes(LENGTH_BYTES, "little") + data)
            answers.flush()


if __name__ == "__main__":
    main()
