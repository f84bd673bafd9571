"""Each form of Markdown on the screen: its text and its styles, also while it is being written."""

from pathlib import Path

import pytest
from qwen35_chat.drawing.colours import coloured
from qwen35_chat.drawing.line import Line
from qwen35_chat.drawing.markdown_text import MarkdownText
from qwen35_chat.fake import done
from rich.cells import cell_len
from textual.style import Style

from qwen35_mlx.session.events import Answer
from tests.app.drive import chat

# What is shown of each text, with "\u00a0" as a space.
FORMS = {
    # formulas
    r"so $x\,dx$ and \(\{1\}\)": "so x dx and {1}",
    r"**$a_1*b_2*c$**, [$x^2$](https://a.b)": "a₁*b₂*c, x² (https://a.b)",
    "$n$th, $k$-th, 设$x=1$则": "nth, k-th, 设x = 1则",
    "a\n$$\nx - y\n= z\n$$\nb": "a\n\n    x − y = z\n\nb",
    "$$\n\\frac{a}{b}\n$$": "     a\n    ───\n     b",
    "\\[\na\n\n- b\n# c\n\\]": "    a − b#c",
    "so \\[ E = mc^2 \\] holds": "so\n    E = mc²\nholds",
    "$$x=1$$, and $$y$$": "    x = 1\n, and\n    y",
    "$$\nx\n$$ where": "    x\n\nwhere",
    "$$x=1.$$\n\n$$y$$.": "    x = 1.\n\n    y.",
    "\\begin{align*}\na &= b \\\\\n&= c\n\\end{align*}": "    a = b\n      = c",
    "- a\n\n  $$x$$\n- b": "• a\n\n      x\n\n• b",
    "1. So\n   $$\n   x\n   - y\n   $$\n2. Then": "1. So\n       x − y\n2. Then",
    "1. So\n$$\nx\n$$\n2. Then": "1. So\n\n    x\n\n2. Then",
    "a\n\n$$\nx\n\n+ y\n\n= z\n$$\n\nb": "a\n\n    x + y = z\n\nb",
    "```math\nx^2\n```\n\n```mathematica\n":
        "    x²\n\n mathematica                                           copy\n",
    "> so $$x=1$$": "▏ so\n▏     x = 1",
    "| a |\n|---|\n| $x^2$ |": "a\n──\nx²",
    "# The $\\alpha$": "The α\n─────",
    # what is no formula, or cannot be read as one
    "It costs $5 and $10, or $5-$10.": "It costs $5 and $10, or $5-$10.",
    "US$5 and A$10, 5$ to 10$": "US$5 and A$10, 5$ to 10$",
    "about $5 to 10$ more, $n log n$": "about $5 to 10$ more, $n log n$",
    "$HOME/bin:$PATH, $VAR1/$VAR2/": "$HOME/bin:$PATH, $VAR1/$VAR2/",
    "${HOME}/x, ${A}${B} $AB$(c)": "${HOME}/x, ${A}${B} $AB$(c)",
    "where $$\nx\n$$": "where\n    x",
    "the PID $$ and $$, $(a) $(b)": "the PID $$ and $$, $(a) $(b)",
    "`$x$` and `\\(y\\)`": "$x$ and \\(y\\)",
    "    $$x$$": " code                                                  copy\n $$x$$",
    r"see \[1\], \[a\](b), \$x\$": "see [1], [a](b), $x$",
    r"$\frac{a$ and $\foo{b}\,c$": r"$\frac{a$ and \foo{b} c",
    "$$\n\\frac{a\\\\ *b*\n$$": "$$\n\\frac{a\\\\ *b*\n$$",
    "$$\n\\frac{a}\\,*b*": "$$\n\\frac{a}\\,*b*",
    "where $$\nx\n$$\n\nthen\n\n$$\ny\n$$": "where\n    x\n\nthen\n\n    y",
    # emphasis, code, links
    "***both*** **a *b* c** ~~d~~ _e_": "both a b c d e",
    "a_b_c and 2*3*4 and ** x **": "a_b_c and 234 and ** x **",
    "`a``b` ``c`d``": "a``b c`d",
    "[a](https://b.c) [d](e.md) <https://f.g/h>": "a (https://b.c) d (e.md) https://f.g/h",
    "README.md, main.py, a@b.c, e.g. that": "README.md, main.py, a@b.c, e.g. that",
    "https://zh.wikipedia.org/wiki/维基 x": "https://zh.wikipedia.org/wiki/维基 x",
    "![cat](https://a.b/c.png)": "cat (https://a.b/c.png)",
    "&amp; &lt;b&gt; &copy; <b>x</b> a<br>b": "& <b> © <b>x</b> a\nb",
    "<div>\n*x*\n</div>": "<div>\n*x*\n</div>",
    # Chinese and Japanese
    "**注意：**不要": "注意：不要",
    "__注意：__不要，_是：_的": "注意：不要，是：的",
    "变量__name__和a_b_c，my_变量_名": "变量__name__和a_b_c，my_变量_名",
    "**“重点”**内容": "“重点”内容",
    "这是**“重点”**，和*（注）*的": "这是“重点”，和（注）的",
    "**「強調」**です。~~削除。~~した": "「強調」です。削除。した",
    "**A。**B **C**。**D**": "A。B C。D",
    "2 ** 3，4 ** 5": "2 ** 3，4 ** 5",
    "见 https://a.b/c，然后。": "见 https://a.b/c，然后。",
    "（https://a.b/c）和https://d.e。": "（https://a.b/c）和https://d.e。",
    # blocks
    "# A\n\n## B\n\n### C": "A\n─\n\nB\n\nC",
    "- a\n  - b\n    1. c\n- d": "• a\n  • b\n    1. c\n• d",
    "- [ ] a\n- [x] **b**\n- [y] c\n\n1. [X] d": "☐ a\n☑ b\n• [y] c\n\n1. ☑ d",
    "- a\n\n  b\n- c\n- d": "• a\n\n  b\n\n• c\n• d",
    "- a\n\n- b\n  c": "• a\n• b\n  c",
    "1. a\n   - b\n\n   c\n2. d": "1. a\n   • b\n\n   c\n\n2. d",
    "> a\n>\n> > b\n> c": "▏ a\n▏\n▏ ▏ b\n▏ ▏ c",
    "- > q\n- # h\n- - x": "• ▏ q\n• h\n  ─\n• • x",
    "> [!NOTE]\n> *a*\n\n> [!x]\n\n> [!TIP]": "▏ Note\n▏ a\n\n▏ [!x]\n\n▏ Tip",
    "a[^1] b[^note]\n\n[^1]: One\n  *more*\n[^note]: word":
        "a¹ b[note]\n\n¹ One\n  more\n[note] word",
    "a\n\n***\n\nb": f"a\n\n{'─' * 60}\n\nb",
    "| a | b | c |\n|:--|:-:|--:|\n| xx | y | 1 |\n| 中文 | z | 100 |":
        "a     b    c\n────  ─  ───\nxx    y    1\n中文  z  100",
    "| aaaa | bbbb |\n|:-:|--:|\n| 中 | x<br>yy |":
        "aaaa  bbbb\n────  ────\n 中      x\n        yy",
    "- | a |\n  |---|\n  | b |": "•\n  a\n  ─\n  b",
}  # fmt: skip
CODE = {
    "1. a\n   ```python\n   if x:\n       y\n   ```\n2. b": [
        "1. a", "    python", "    if x:", "        y", "2. b"],
    "- ```sh\n  ls\n  ```": ["•  sh", "   ls"],
    "- a\n\n      b\n        c": ["• a", "", "   code", "   b", "     c"],
    "> ```\n> a\n>   b\n> ```": ["▏  code", "▏  a", "▏    b"],
}  # fmt: skip


def complete(text: str) -> MarkdownText:
    made = MarkdownText()
    made.feed(text)
    made.finish()
    return made


def lines_of(text: MarkdownText, width: int = 60) -> list[Line]:
    return [line for part in text.parts for line in part.lines(width)]


def shown(text: MarkdownText, width: int = 60) -> str:
    lines = [line.content.plain.replace("\u00a0", " ").rstrip() for line in lines_of(text, width)]
    return "\n".join(lines)


def styles(source: str, word: str) -> set[str]:
    """The styles of a word; a link's address and its underline among them."""
    found: set[str] = set()
    for line in lines_of(complete(source)):
        at = line.content.plain.find(word)
        for span in line.content.spans if at >= 0 else ():
            if span.start <= at and at + len(word) <= span.end:
                style = span.style
                if not isinstance(style, Style):
                    found |= set(str(style).split())
                elif style.meta:
                    found |= {click[1][0] for click in [style.meta.get("@click")] if click}
                else:
                    found.add("underline")
    return found


@pytest.mark.parametrize("source", FORMS)
def test_what_is_shown(source: str) -> None:
    assert shown(complete(source)) == FORMS[source]


@pytest.mark.parametrize("source", CODE)
def test_code_in_a_list_or_quote_keeps_its_indent(source: str) -> None:
    lines = [line.removesuffix("copy").rstrip() for line in shown(complete(source)).split("\n")]
    assert lines == CODE[source]


@pytest.mark.parametrize("source", [*FORMS, *CODE])
def test_it_does_not_depend_on_how_the_text_arrives(source: str) -> None:
    for at in range(1, len(source)):
        made = MarkdownText()
        made.feed(source[:at])
        shown(made)
        made.feed(source[at:])
        open_end = shown(made)
        made.finish()
        assert shown(made) == shown(complete(source)), at
        if source not in CODE and "copy" not in open_end + shown(made):
            assert open_end == shown(made), at


@pytest.mark.parametrize("source", [*FORMS, *CODE])
def test_no_line_is_wider_than_the_screen(source: str) -> None:
    text = complete(source)
    for width in range(1, 40):
        for line in lines_of(text, width):
            # A wide character has two cells, whatever room there is.
            assert cell_len(line.content.plain.rstrip(" ")) <= max(width, 2), width


@pytest.mark.parametrize(
    ("source", "word", "expected"),
    [
        ("***both***", "both", {"bold", "italic"}),
        ("**a *b* c**", "b", {"bold", "italic"}),
        ("**`b`**", "b", {"bold", ".inline-code"}),
        ("~~**b**~~", "b", {"bold", "strike"}),
        ("# b", "b", {".heading"}),
        ("## b", "b", {".heading"}),
        ("### b", "b", {"bold"}),
        ("#### b", "b", {"bold", "italic"}),
        ("##### b", "b", {"italic"}),
        ("## `b`", "b", {".heading", ".inline-code"}),
        ("[b](https://c.d)", "b", {".link", "underline", "https://c.d"}),
        ("[b](https://c.d)", "(https://c.d)", {".muted", "https://c.d"}),
        ("README.md x", "README.md", set()),
        ("[b](file:///c)", "b", set()),
        ("[**b**](https://c.d)", "b", {"bold", ".link", "underline", "https://c.d"}),
        ("见https://a.b/c，然后", "https://a.b/c", {".link", "underline", "https://a.b/c"}),
        ("见https://a.b/c，然后", "然后", set()),
        ("https://a.b/c“引”", "引", set()),
        ("**注意：**不要", "注意：", {"bold"}),
        ("**注意：**不要", "不要", set()),
        ("**“重点”**内容", "重点", {"bold"}),
        ("| a |\n|---|\n| **b** |", "a", {".heading"}),
        ("| a |\n|---|\n| **b** |", "b", {"bold"}),
        ("| `a` |\n|---|\n| b |", "a", {".heading", ".inline-code"}),
        ("- [x] **b**", "b", {"bold"}),
        ("**$x^2$**", "x²", {"bold"}),
    ],
)  # fmt: skip
def test_how_it_is_shown(source: str, word: str, expected: set[str]) -> None:
    assert styles(source, word) == expected


def test_a_diff_has_its_two_colours_up_to_the_last_line() -> None:
    diff = coloured(" same\n-old\n+new", "diff")
    assert diff is not None
    assert [[str(span.style) for span in line.spans] for line in diff] == [
        [], ["$text-error"], ["$text-success"]]  # fmt: skip
    last = coloured("+new\n-old", "diff")
    assert last is not None
    assert [str(span.style) for span in last[-1].spans] == ["$text-error"]


@pytest.mark.parametrize(
    ("language", "code"),
    [("diff", "+a"), ("json", '{"a": 1, ...'), ("python", "x = $y ?"), ("html", "<a"), ("c", "#x"),
     ("bash", "echo 'a"), ("yaml", "a: ["), ("python", ""), ("python", "a\n"), ("python", "a\n\n")],
)  # fmt: skip
def test_code_that_is_cut_off_has_no_colour_of_an_error(language: str, code: str) -> None:
    lines = coloured(code, language)
    assert lines is not None
    assert "\n".join(line.plain for line in lines) == code
    styles = [str(span.style) for line in lines for span in line.spans]
    assert not [style for style in styles if "error" in style]


def test_functions_do_not_look_like_links() -> None:
    (line,) = coloured("def area(): pass", "python") or []
    assert line.spans
    assert not [span for span in line.spans if "underline" in str(span.style)]


@pytest.mark.parametrize("theme", ["dark", "light", "ansi"])
async def test_code_within_a_text_is_visible(theme: str, home: Path) -> None:
    file = home / "settings.toml"
    file.write_text(f'theme = "{theme}"\n', encoding="utf-8")
    async with chat(home, settings=file) as at:
        await at.send("one")
        await at.shown([Answer("plain `code`"), done()])
        segments = [
            segment
            for strip in at.app.screen._compositor.render_strips()
            for segment in strip
            if segment.text.strip() in ("plain", "code")
        ]
        plain, code = (segment.style for segment in segments)
        assert plain
        assert code
        assert plain.color != code.color
