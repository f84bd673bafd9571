"""The fields of a request's JSON, each checked as it is read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from qwen35_mlx.errors import shown
from qwen35_mlx.generation.sampling_parameters import LIMITS, RANGES, Range
from qwen35_mlx.server.errors import ApiError
from qwen35_mlx.session.reply_options import EFFORT

_T = TypeVar("_T")

# Further fields, for clients that can add some.
SESSION = "session"
_COPIES = Range(1, whole=True)
_NUMBERS = {**RANGES, "seed": Range(0, whole=True)}


@dataclass(frozen=True, slots=True)
class RequestFields:
    """A JSON object of a request. null counts as missing; unknown fields are ignored.

    Attributes:
        path: of the object in the request, as error lines name it; "" for the request itself.

    Raises:
        ApiError: from every method: a value is of another type than the field has. The line names
            the field.
    """

    values: Mapping[str, Any]
    path: str = ""

    def where(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def error(self, name: str, problem: str) -> ApiError:
        """An error about a field, such as error("n", "is 2: leave it out")."""
        where = self.where(name)
        return ApiError(f"{where} {problem}", param=where)

    def get(self, name: str) -> Any:
        """A value of any type; None if it is missing."""
        return self.values.get(name)

    def text(self, name: str) -> str | None:
        return self._typed(name, str, "a string")

    def required_text(self, name: str) -> str:
        """A string that is not empty."""
        text = self.text(name)
        if not text:
            raise self.error(name, "is missing: give a string")
        return text

    def flag(self, name: str) -> bool | None:
        return self._typed(name, bool, "true or false")

    def whole(self, name: str, bounds: Range) -> int | None:
        """A whole number, which 1.0 is, too, in a range of such."""
        found = self.number(name, bounds)
        return None if found is None else int(found)

    def number(self, name: str, bounds: Range) -> float | None:
        """A number in a range. No range has whole numbers of more than 64 bits."""
        value = self.values.get(name)
        if value is not None and not bounds.contains(value):
            many = isinstance(value, int | float) and abs(value) >= 2**63
            digits = " of at most 18 digits" if many else ""
            raise self.error(name, f"is {shown(value)}: give {bounds}{digits}")
        return value

    def limit(self, name: str, of: str = "max_tokens") -> int | None:
        """A number of tokens, or -1 for no limit.

        Args:
            of: the option that it becomes.
        """
        return self.whole(name, LIMITS[of])

    def section(self, name: str) -> "RequestFields":
        """An object; one without fields if it is missing."""
        value = self._typed(name, Mapping, "an object")
        return RequestFields(value or {}, self.where(name))

    def sections(self, name: str) -> list["RequestFields"]:
        """A list of objects; none if it is missing."""
        listed = self._typed(name, list, "a list of objects") or []
        return [self.item(name, index, item) for index, item in enumerate(listed)]

    def item(self, name: str, index: int, value: Any) -> "RequestFields":
        """One object of a list."""
        where = f"{self.where(name)}[{index}]"
        if not isinstance(value, Mapping):
            raise ApiError(f"{where} is {shown(value)}: give an object", param=where)
        return RequestFields(value, where)

    def texts(self, name: str) -> list[str]:
        """A string or a list of strings; none if it is missing."""
        value = self.values.get(name)
        listed = [value] if isinstance(value, str) else value or []
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            raise self.error(name, f"is {shown(value)}: give a string or a list of strings")
        return listed

    def refuse(self, names: Iterable[str], advice: str = "leave it out") -> None:
        """Refuse fields that ask for what the server does not have.

        null, false, 0, "" and empty lists and objects ask for nothing.
        """
        for name in names:
            if self.values.get(name):
                raise self.error(name, f"is not supported: {advice}")

    def refuse_copies(self, name: str) -> None:
        """Refuse more than one reply to a request."""
        if (count := self.whole(name, _COPIES)) is not None and count > 1:
            raise self.error(name, f"is {count}: one reply a request is supported; send it again")

    def _typed(self, name: str, kind: type[_T], wanted: str) -> _T | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, kind):
            raise self.error(name, f"is {shown(value)}: give {wanted}")
        return value


def shared_options(fields: RequestFields) -> dict[str, Any]:
    """The options of a reply that have one name in all interfaces, as far as they are given.

    `thinking_budget` and `chat_template_kwargs` are not OpenAI's; other servers have them, too.
    """
    numbers = {name: fields.number(name, bounds) for name, bounds in _NUMBERS.items()}
    options: dict[str, Any] = {name: value for name, value in numbers.items() if value is not None}
    if (budget := fields.limit("thinking_budget", of="thinking_budget")) is not None:
        options["thinking_budget"] = budget
    arguments = dict(fields.section("chat_template_kwargs").values)
    thinking = fields.flag("enable_thinking")
    if "enable_thinking" in arguments:
        thinking = fields.section("chat_template_kwargs").flag("enable_thinking")
        del arguments["enable_thinking"]
    if thinking is not None:
        options["thinking"] = thinking
    if arguments:
        options["template_arguments"] = arguments
    return options


def effort_options(effort: str | None, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The options for a `reasoning_effort`: "none" is no thinking, all others are thinking.

    How much of it, a template says that reads the effort.

    Args:
        shared: the `shared_options`. A switch of thinking among them wins over the effort.
    """
    if not effort:
        return {}
    thinking = shared.get("thinking", effort != "none")
    return {"thinking": thinking} | ({EFFORT: effort} if thinking and effort != "none" else {})
