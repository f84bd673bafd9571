"""A conversation as one HTML file, which loads and runs nothing.

Messages are Markdown of a stranger: HTML in them is shown as it is written, links lead to the web
only, and pictures are links. A policy in the page's head forbids scripts and anything from outside.
"""

import time
from collections.abc import Sequence
from functools import cache
from html import escape
from typing import TYPE_CHECKING, Any

from qwen35_mlx.json_text import write_json
from qwen35_mlx.library.conversation import Conversation, Message
from qwen35_mlx.library.exporting import STATE_LABELS, SUMMARY_TITLE, system_prompt
from qwen35_mlx.library.summaries import whole_path
from qwen35_mlx.terminal import visible

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

# A text with more marks takes the parser seconds: it is shown as it was written.
MOST_MARKS = 20_000
WIDE = 1_000  # cells: a formula by itself is never broken
WEB = ("https://", "http://", "mailto:")
_MARKS = str.maketrans("", "", "[]*_~`<&|")
_NAMES = {"system": "System", "user": "You", "assistant": "Assistant", "tool": "Tool"}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.6 system-ui, sans-serif; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }
header { color: GrayText; }
h1 { line-height: 1.2; color: CanvasText; }
article { margin: 1.5rem 0; padding: 0.1rem 1rem; border-left: 3px solid GrayText; }
article.user { border-color: #4c7fd0; }
article.assistant { border-color: #3f9a63; }
article > h2 { font-size: 0.85rem; margin: 0.5rem 0; color: GrayText; }
pre, code { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre.formula { background: none; line-height: 1.2; }
pre { overflow-x: auto; padding: 0.75rem; background: color-mix(in srgb, GrayText 12%, Canvas); }
pre.text { white-space: pre-wrap; }
table { border-collapse: collapse; }
td, th { border: 1px solid GrayText; padding: 0.25rem 0.6rem; }
blockquote { margin-left: 0; padding-left: 1rem; border-left: 2px solid GrayText; }
details, .note { color: GrayText; }
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def to_html(conversation: Conversation) -> str:
    """The selected path, with the turns that were summarised, as one HTML page."""
    title = escape(visible(" ".join(conversation.title.split()))) or "Untitled"
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(conversation.created))
    about = escape(visible(", ".join(part for part in (when, conversation.model) if part)))
    articles = [_article(message) for message in whole_path(conversation)]
    if (system := system_prompt(conversation)) is not None:
        articles.insert(0, _article(Message(0, None, "system", system)))
    return (
        '<!DOCTYPE html>\n<html>\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{title}</h1>{about}</header>\n" + "\n".join(articles) + "\n</body>\n</html>\n"
    )


def _article(message: Message) -> str:
    if message.summary is not None:
        text = escape(visible(message.summary))
        return (
            f"<hr>\n<details><summary>{SUMMARY_TITLE}</summary>"
            f'<pre class="text">{text}</pre></details>\n<hr>'
        )
    parts = [f'<article class="{message.role}">\n<h2>{_NAMES[message.role]}</h2>']
    if message.thinking.strip():
        thinking = escape(visible(message.thinking.strip("\n")))
        parts.append(
            f'<details><summary>Thinking</summary><pre class="text">{thinking}</pre></details>'
        )
    if message.role == "assistant":
        parts.append(_markdown(message.content))
    elif message.content.strip():  # what was typed is shown as it was typed
        parts.append(f'<pre class="text">{escape(visible(message.content))}</pre>')
    for call in message.tool_calls:
        text = visible(write_json(call.get("function", call), indent=2))
        parts.append(f"<pre><code>{escape(text)}</code></pre>")
    if ending := STATE_LABELS.get(message.state):
        error = f": {visible(message.error)}" if message.error else ""
        parts.append(f'<p class="note">({escape(ending + error)})</p>')
    return "\n".join([*parts, "</article>"])


def _markdown(text: str) -> str:
    shown = visible(text)
    if len(shown) - len(shown.translate(_MARKS)) > MOST_MARKS:
        return f'<pre class="text">{escape(shown)}</pre>'
    return _parser().render(shown)


@cache
def _parser() -> "MarkdownIt":
    from qwen35_chat.drawing.markdown import DEEPEST
    from qwen35_chat.drawing.markdown_rules import parser

    made = parser(DEEPEST)
    made.options["html"] = False
    for kind, rule in {
        "image": _image,
        "link_open": _link,
        "formula": _formula,
        "formula_block": _formula_block,
        "footnote_mark": _footnote_mark,
        "footnote_open": _footnote,
        "footnote_close": _footnote_end,
    }.items():
        made.add_render_rule(kind, rule)
    return made


def _image(_: Any, tokens: "Sequence[Token]", index: int, *__: Any) -> str:
    """A picture as a link: nothing is loaded by itself."""
    token = tokens[index]
    address = str(token.attrs.get("src", ""))
    text = escape(token.content or address)
    return _anchor(address) + f"{text}</a>" if address.startswith(WEB) else text


def _link(_: Any, tokens: "Sequence[Token]", index: int, *__: Any) -> str:
    return _anchor(str(tokens[index].attrs.get("href", "")))


def _formula(_: Any, tokens: "Sequence[Token]", index: int, *__: Any) -> str:
    """A formula within a text, in characters as in the chat; its source is in the title."""
    from qwen35_chat.drawing.formulas import in_text

    token = tokens[index]
    shown = escape(in_text(token.content, token.markup))
    return f'<span class="formula" title="{escape(token.markup)}">{shown}</span>'


def _formula_block(_: Any, tokens: "Sequence[Token]", index: int, *__: Any) -> str:
    from qwen35_chat.drawing.formulas import Formula

    token = tokens[index]
    lines = Formula(token.content, token.markup).lines(WIDE)
    shown = escape("\n".join(line.content.plain for line in lines))
    return f'<pre class="formula" title="{escape(token.markup)}">{shown}</pre>\n'


def _footnote_mark(_: Any, tokens: "Sequence[Token]", index: int, *__: Any) -> str:
    return f"<sup>{escape(tokens[index].content)}</sup>"


def _footnote(_: Any, tokens: "Sequence[Token]", index: int, *__: Any) -> str:
    return f'<p class="note"><sup>{escape(tokens[index].info)}</sup> '


def _footnote_end(*_: Any) -> str:
    return "</p>\n"


def _anchor(address: str) -> str:
    if not address.startswith(WEB):
        return "<a>"
    return f'<a href="{escape(address)}" rel="noopener noreferrer nofollow">'
