"""A conversation as HTML: all of it is there, and nothing in it runs or loads."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from qwen35_chat.html_export import to_html
from qwen35_chat.main import main

from qwen35_mlx.library.conversation import ChatSettings, Conversation, Message
from qwen35_mlx.library.library import Library
from tests.app.drive import chat
from tests.app.plain_drive import PlainChat
from tests.library.messages import add_message

ATTACKS = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</pre></article><iframe src='https://a.b'></iframe>",
    "[x](javascript:alert(1))",
    "[x](JaVaScRiPt&#58;alert(1))",
    "[x](data:text/html,<script>alert(1)</script>)",
    "![x](https://a.b/pixel.png)",
    "![x](data:image/svg+xml;base64,PHN2Zz4=)",
    '[x](https://a.b "onmouseover=alert(1)")',
    '[x](https://a.b/"onclick="alert(1))',
    "<https://a.b/?<script>>",
    "```html\n</code></pre><script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\nx\n```',
    "| a |\n|---|\n| <b onclick=x>y</b> |",
    "<style>body{background:url(https://a.b)}</style>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "\x1b]52;c;x\x07 \u202e",
)
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "article", "details", "summary"),
    *("h1", "h2", "h3", "h4", "h5", "h6", "p", "pre", "code", "em", "strong", "s", "a", "ul", "ol"),
    *("li", "blockquote", "hr", "br", "table", "thead", "tbody", "tr", "th", "td"),
}


class Page(HTMLParser):
    """The elements of a page and its text."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def conversation(*messages: Message, title: str = "A title", system: str = "") -> Conversation:
    leaf = messages[-1].id if messages else None
    settings = ChatSettings(system=system or None)
    return Conversation(1, title, messages, leaf, settings, model="demo")


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_message_runs_or_loads(attack: str) -> None:
    call = {"type": "function", "function": {"name": attack, "arguments": {"x": attack}}}
    stored = conversation(
        Message(1, None, "user", attack),
        Message(2, 1, "assistant", attack, thinking=attack, tool_calls=(call,)),
        Message(3, 2, "tool", attack),
        Message(4, 3, "assistant", attack, state="failed", error=attack),
        title=attack,
        system=attack,
    )
    page = to_html(stored)
    for tag, attributes in Page(page).tags:
        assert tag in ALLOWED
        assert not {name for name in attributes if name.startswith("on") or name == "src"}
        assert (attributes.get("href") or "https://").startswith("https://")
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_all_of_a_conversation_is_there() -> None:
    stored = conversation(
        Message(1, None, "user", "see  *this*\n    code"),
        Message(2, 1, "assistant", "**so**\n\n| a | b |\n|---|---|\n| 1 | 2 |\n", thinking="hm"),
        Message(3, 2, "user", "and?"),
        Message(4, 3, "assistant", "no", state="cancelled"),
        system="Be brief.",
    )
    page = to_html(stored)
    text = Page(page).text
    for part in (
        "A title",
        "demo",
        "Be brief.",
        "see  *this*\n    code",
        "hm",
        "and?",
        "(stopped)",
    ):
        assert part in text
    assert "<strong>so</strong>" in page
    assert "<td>2</td>" in page
    assert [attributes["class"] for tag, attributes in Page(page).tags if tag == "article"] == [
        *("system", "user", "assistant", "user", "assistant")
    ]


def test_formulas_and_words_beside_chinese_are_as_in_the_chat() -> None:
    note = "**\u6ce8\u610f\uff1a**\u4e0d\u8981"
    text = (
        f"{note} $a_1 \\le b_2$, \\(\\alpha\\).[^1]\n\n"
        "$$\n\\frac{1}{x}<y\n$$\n\n"
        "[^1]: A **note**.\n\n`$not$`"
    )
    page = to_html(conversation(Message(1, None, "assistant", text)))
    assert "<strong>\u6ce8\u610f\uff1a</strong>\u4e0d\u8981" in page
    assert '<span class="formula" title="$a_1 \\le b_2$">a₁\u00a0≤\u00a0b₂</span>' in page
    assert ">\u03b1</span>" in page
    rows = page.partition('<pre class="formula"')[2].partition(">")[2].partition("</pre>")[0]
    assert [row.strip() for row in rows.splitlines()] == ["1", "─── &lt; y", "x"]
    assert "<sup>1</sup>" in page
    assert "A <strong>note</strong>." in page
    assert "<code>$not$</code>" in page


@pytest.mark.parametrize("marks", ["$%s + 1$", "$$%s + 1$$", "[^%s]", "a[^%s]\n\n[^%s]: so"])
def test_nothing_in_a_formula_or_a_footnote_runs(marks: str) -> None:
    text = marks.replace("%s", '"><script>alert(1)</script>')
    found = Page(to_html(conversation(Message(1, None, "assistant", text))))
    assert not any(tag == "script" for tag, _ in found.tags)
    text = marks.replace("%s", "\\text{<script>alert(1)</script>}")
    found = Page(to_html(conversation(Message(1, None, "assistant", text))))
    assert not any(tag == "script" for tag, _ in found.tags)


def test_a_text_with_very_many_marks_is_shown_as_it_was_written() -> None:
    text = "[" * 30_000
    page = to_html(conversation(Message(1, None, "assistant", text)))
    assert f'<pre class="text">{text}</pre>' in page


# The file


@pytest.mark.parametrize(
    ("name", "begins", "file"),
    [
        ("x.html", "<!DOCTYPE html>", "x.html"),
        ("x.HTM", "<!DOCTYPE html>", "x.HTM"),
        ("x.md", "# one", "x.md"),
        ("x.markdown", "# one", "x.markdown"),
        ("x", "# one", "x.md"),
        ("x.json", "{", "x.json"),
        ("", "# one", "one.md"),
    ],
)
async def test_the_suffix_chooses_the_format(home: Path, name, begins, file) -> None:
    async with chat(home) as at:
        await at.turn("one")
        await at.send(f"/export {name}")
        await at.until(lambda: f"Written to {file}" in at.text)
    assert Path(file).read_text(encoding="utf-8").startswith(begins)


@pytest.mark.parametrize("name", ["x.pdf", "x.docx", "x.htmll", "x.md.gz", "v1.2"])
def test_another_suffix_is_refused_with_those_there_are(session: PlainChat, name: str) -> None:
    session.library.create(title="one")
    written = session.run(f"/export {name}", at=1)
    assert f"Error: {name}: there is no format for it; end it in .md, .markdown, .html" in written
    assert not Path(name).exists()


def test_the_command_writes_html(home: Path, capsys) -> None:
    with Library(home) as library:
        add_message(library, library.create(title="one"), None, "user", "what?")
    assert main(["--export", "one", "--format", "html"]) == 0
    assert capsys.readouterr().out.startswith("<!DOCTYPE html>")
