"""What the arguments of public functions may be: one table, and the decorator that applies it.

A caller of `load`, `convert`, `compare`, `Model`, `Chat` or `Library` gets a `Qwen35Error` for any
argument that does not fit, before anything has changed. Only missing and unknown arguments raise
Python's own `TypeError`; an unknown option of a reply is a `Qwen35Error`, too.
"""

import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, cast, get_args, get_type_hints

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.generation.sampling_parameters import LIMITS, RANGES, Range
from qwen35_mlx.text.messages import plain_arguments

_Target = TypeVar("_Target")


@dataclass(frozen=True, slots=True)
class Kind:
    """The values that an argument may have, besides None where its annotation allows that.

    Attributes:
        wanted: for error lines.
        accepts: whether a value fits.
        convert: a fitting value, of which there may be several types, as the function uses it.
    """

    wanted: str
    accepts: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value

    def check(self, name: str, value: Any, optional: bool = False) -> Any:
        """The value to use.

        Args:
            name: of the argument.
            optional: whether None fits, too.

        Raises:
            Qwen35Error: the value does not fit.
        """
        if value is None and optional:
            return None
        if not self.accepts(value):
            or_none = " or None" if optional else ""
            raise Qwen35Error(f"{name} is {shown(value)}: give {self.wanted}{or_none}")
        return self.convert(value)


def _whole(bounds: Range) -> Kind:
    return Kind(str(bounds), bounds.contains, int)


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray)


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: _is_list(value) and all(isinstance(item, kind) for item in value)


def _is_path(value: object) -> bool:
    """Whether it is a path that the operating system can be given."""
    if not isinstance(value, str | Path) or str(value) == "" or "\0" in str(value):
        return False
    try:
        return bool(os.fsencode(value))
    except UnicodeEncodeError:  # half a character
        return False


def _are_ids(value: object) -> bool:
    """Whether it is a list or a one-dimensional array of whole numbers."""
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return False
    try:
        return all(map(_COUNT.contains, cast(Sequence[Any], value)))
    except TypeError:
        return False


_COUNT, _AT_LEAST_ONE = Range(0, whole=True), Range(1, whole=True)

_TEXT = Kind("a string", lambda value: isinstance(value, str))
_NAME = Kind("a string that is not empty", lambda value: isinstance(value, str) and value != "")
_FLAG = Kind("True or False", lambda value: isinstance(value, bool))
_FUNCTION = Kind("a function", callable)
_PATH = Kind("a path", _is_path)
_CHECKPOINT = Kind("a folder or a name such as 'Qwen/Qwen3.5-4B'", _is_path)
_ID = _whole(_AT_LEAST_ONE)
_DRAFTING = Kind(
    "'auto', 'off' or a number from 1 to 6",
    lambda value: (
        (isinstance(value, str) and value in ("auto", "off"))
        or Range(1, 6, whole=True).contains(value)
    ),
    lambda value: value if isinstance(value, str) else int(value),
)

# By the argument's name, or by "function.argument" where the same name means something else.
# Arguments whose annotation is a class, such as `library: Library`, need no entry.
ARGUMENTS: Mapping[str, Kind] = {
    # load, convert, compare
    "name": _CHECKPOINT,
    "a": _CHECKPOINT,
    "b": _CHECKPOINT,
    "tokens": _whole(Range(2, 1 << 18, whole=True)),
    "hf_path": _CHECKPOINT,
    "mlx_path": _PATH,
    "adapter_path": Kind("a folder or a name such as 'org/repo'", _is_path),
    "dequantize": _FLAG,
    "gguf_path": _PATH,
    "gguf_type": _NAME,
    "mtp": Kind("a folder, a file or a repository of an MTP head", _is_path),
    "mtp_path": Kind("a folder, a file or a repository of an MTP head", _is_path),
    "load.mtp": _DRAFTING,
    "__init__.mtp": _DRAFTING,
    "revision": _NAME,
    "dtype": _NAME,
    "context": _whole(_AT_LEAST_ONE),
    "kv_bits": Kind("8", Range(8, 8, whole=True).contains, int),
    "progress": _FUNCTION,
    "notice": _FUNCTION,
    "quantize": _FLAG,
    "resume": _FLAG,
    "stream": _FLAG,
    "upload_repo": _NAME,
    "public": _FLAG,
    "calibrate": _TEXT,
    "verify": _FLAG,
    "verify_text": _TEXT,
    "recipe": _NAME,
    "q_bits": _whole(_AT_LEAST_ONE),
    "q_group_size": _whole(_AT_LEAST_ONE),
    "q_mode": _NAME,
    # Model
    "path": _PATH,
    "adapter": _PATH,
    "folder": _PATH,
    "budget": _whole(_COUNT),
    "ids": Kind("a list of token ids", _are_ids, lambda ids: [int(i) for i in ids]),
    "messages": Kind("a list of messages", _is_list),
    "prompt": Kind(
        "a string or a list of token ids",
        lambda value: isinstance(value, str) or _are_ids(value),
        lambda value: value if isinstance(value, str) else [int(i) for i in value],
    ),
    "thinking": _FLAG,
    "tools": Kind("a list of mappings", _is_list_of(Mapping)),
    "template_arguments": Kind(
        "a mapping of names to values",
        lambda value: isinstance(value, Mapping) and all(isinstance(name, str) for name in value),
        plain_arguments,
    ),
    "reasoning_effort": _NAME,
    "repetition_guard": _FLAG,
    "reply": _FLAG,
    "seed": _whole(_COUNT),
    "stop": Kind(
        "a string or a list of strings",
        lambda value: isinstance(value, str) or _is_list_of(str)(value),
        lambda value: [value] if isinstance(value, str) else list(value),
    ),
    "response_format": Kind("a mapping with a 'type'", lambda value: isinstance(value, Mapping)),
    "tool_choice": Kind(
        "'auto', 'none', 'required' or {'type': 'function', 'function': {'name': ...}}",
        lambda value: (
            isinstance(value, Mapping)
            or (isinstance(value, str) and value in ("auto", "none", "required"))
        ),
    ),
    "parallel_tool_calls": _FLAG,
    "sampling": Kind("a mapping", lambda value: isinstance(value, Mapping)),
    **{name: Kind(str(bounds), bounds.contains) for name, bounds in RANGES.items()},
    **{name: _whole(bounds) for name, bounds in LIMITS.items()},
    # Chat
    "open.name": Kind(
        "an id or a title",
        lambda value: _ID.accepts(value) or _NAME.accepts(value),
        lambda value: value if isinstance(value, str) else str(int(value)),
    ),
    "conversation": _ID,
    "message": _ID,
    "system": _TEXT,
    "text": _TEXT,
    "content": Kind(
        "a string, or a list of messages of role 'tool'",
        lambda value: isinstance(value, str) or _is_list_of(Mapping)(value),
    ),
    # Library
    "file": _PATH,
    "files": Kind("a list of paths", _is_list_of(str)),
    "resolve.name": _TEXT,
    "limit": _whole(_AT_LEAST_ONE),
    "title": _TEXT,
    "model": _TEXT,
    "leaf": _ID,
    "durable": _FLAG,
    "deleted": _FLAG,
    "archived": _FLAG,
    "shelf": Kind(
        "'pinned', 'listed' or 'archived'",
        lambda value: isinstance(value, str) and value in ("pinned", "listed", "archived"),
    ),
}


def checked(target: _Target) -> _Target:
    """Check the arguments of a function, or of all public methods that a class defines.

    Decorator. An argument whose annotation is a class must be an instance of it; all others are
    found in `ARGUMENTS`. None fits where the annotation allows it.
    """
    if not isinstance(target, type):
        return cast(_Target, _checked_function(cast(Callable[..., Any], target)))
    for name, member in vars(target).copy().items():
        if name.startswith("_") and name != "__init__":
            continue
        if inspect.isfunction(member):
            setattr(target, name, _checked_function(member))
        elif isinstance(member, classmethod):
            setattr(target, name, classmethod(_checked_function(member.__func__)))
    return target


def checked_options(given: Mapping[str, Any], allowed: type) -> dict[str, Any]:
    """The values of keyword arguments, as the function uses them.

    Args:
        allowed: a `TypedDict` with the names and the types of all that may be given.

    Raises:
        Qwen35Error: a name is unknown, or a value does not fit.
    """
    types = get_type_hints(allowed)
    if unknown := [name for name in given if name not in types]:
        names = ", ".join(sorted(types))
        raise Qwen35Error(f"{shown(unknown[0])} is not an option here: {names} are")
    return {
        name: ARGUMENTS[name].check(name, value, NoneType in get_args(types[name]))
        for name, value in given.items()
    }


def _checked_function(function: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(function)
    kinds = {
        name: found
        for name, parameter in signature.parameters.items()
        if name not in ("self", "cls")
        and parameter.kind is not parameter.VAR_KEYWORD
        and (found := _kind(function.__name__, parameter))
    }

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            if name in kinds:
                kind, optional = kinds[name]
                bound.arguments[name] = kind.check(name, value, optional)
        return function(*bound.args, **bound.kwargs)

    return call


def _kind(function: str, parameter: inspect.Parameter) -> tuple[Kind, bool]:
    """What a parameter may be, and whether None fits."""
    annotation = parameter.annotation
    types = get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    named = [one for one in types if one is not NoneType]
    if len(named) == 1 and _is_own_class(named[0]):
        own = named[0]
        article = "an" if own.__name__[0] in "AEIOU" else "a"
        kind = Kind(f"{article} {own.__name__}", lambda value: isinstance(value, own))
    else:
        name = parameter.name
        kind = ARGUMENTS.get(f"{function}.{name}") or ARGUMENTS[name]
    return kind, NoneType in types


def _is_own_class(annotation: object) -> bool:
    return isinstance(annotation, type) and annotation.__module__.startswith("qwen35_mlx")
