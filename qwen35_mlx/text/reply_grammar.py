"""The grammar of a whole reply: thinking, if the prompt opened it, then what must follow."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qwen35_mlx.json_text import write_json
from qwen35_mlx.text.call_grammar import function_grammar
from qwen35_mlx.text.grammar_source import GrammarSource
from qwen35_mlx.text.tokenizer import Tokenizer

_CALL, _CALL_CLOSE, _THINK_CLOSE = "<tool_call>", "</tool_call>", "</think>"


@dataclass(frozen=True, slots=True)
class ReplyContent:
    """What follows the thinking: one of what is given here, or text without calls.

    Attributes:
        answer: the form of an answer; None for no answer.
        tools: those of which there may be calls, and must be without an answer; None for none.
        several: whether several calls may follow each other.
    """

    answer: GrammarSource | None = None
    tools: Sequence[Mapping[str, Any]] | None = None
    several: bool = True


def reply_grammar(
    content: ReplyContent, tokenizer: Tokenizer, eos: Collection[int], *, thinking: bool
) -> GrammarSource:
    """The grammar of a reply.

    Thinking is free text up to its closing tag, which is never left out.

    Args:
        eos: tokens that end a reply, which are no part of it.
        thinking: whether the prompt left a <think> block open.

    Raises:
        Qwen35Error: a tool cannot be called.
    """
    answer, functions = content.answer, [function_grammar(tool) for tool in content.tools or ()]
    if answer is not None and not functions and not thinking:
        return answer
    marks = _Marks(tokenizer, eos)
    rules, parts, choices = [], {}, []
    if functions:
        names = [f"function{index}" for index in range(len(functions))]
        parts |= dict(zip(names, functions, strict=True))
        choices.append(r'call ("\n" call)*' if content.several else "call")
        function = " | ".join(f"@{name}" for name in names)
        rules.append(rf'call: {marks.tag(_CALL)} "\n" ({function}) {marks.tag(_CALL_CLOSE)}')
    if answer is not None:
        parts["answer"] = answer
        choices.append("@answer")
    if not choices:
        choices.append("text")
        rules += marks.text("text", _CALL, ("<tool_call>", "<function="))
    start = " | ".join(choices)
    if thinking:
        start = rf"thinking {marks.tag(_THINK_CLOSE)} /\n{{0,2}}/ ({start})"
        rules += marks.text("thinking", _THINK_CLOSE, (_THINK_CLOSE,))
    what = "grammar of the reply" if answer is None else answer.what
    return GrammarSource(what, {"lark_grammar": "\n".join([f"start: {start}", *rules])}, parts)


class _Marks:
    """Control tokens in rules of Lark."""

    def __init__(self, tokenizer: Tokenizer, eos: Collection[int]):
        self._ids = {tag: tokenizer.token_id(tag) for tag in (_CALL, _CALL_CLOSE, _THINK_CLOSE)}
        self._free = tokenizer.control_tokens.ids - set(eos)

    def tag(self, tag: str) -> str:
        """A tag, which is one token if the vocabulary has it, and text if not."""
        found = self._ids[tag]
        return write_json(tag) if found is None else f"<[{found}]>"

    def text(self, rule: str, token: str, tags: Sequence[str]) -> list[str]:
        """Rules of a text in which some tags do not stand.

        Args:
            token: the one of them that may be a control token.
        """
        free = sorted(self._free - {self._ids[token]})
        terminal = rule.upper()
        without = "|".join(tags).replace("/", r"\/")
        between = f" (<[{','.join(map(str, free))}]> {terminal}?)*" if free else ""
        return [
            # Never two terminals next to each other: a tag could stand half in each.
            f"{rule}: {terminal}?{between}",
            rf"{terminal}: /(?s:.+)/ & ~/(?s:.*)({without})(?s:.*)/",
        ]
