"""Search: queries are literal, and hits show where the terms are."""

from pathlib import Path

import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.library.search import make_snippet, parse_query
from tests.library.messages import add_message, begin_reply, finish_reply, update_reply

TEXTS = {
    "plain": "The quick brown fox",
    "quotes": 'He said "no" to O\'Brien',
    "operators": "cats AND dogs OR mice NOT rats NEAR(x) col:val ^first pre* -minus (paren) {b}",
    "upper": "GRÖSSE Ärger ЖУК",
    "chinese": "今天天气很好,我们去公园散步",
    "japanese": "吾輩は猫である。名前はまだ無い。",
    "korean": "안녕하세요 세계",
    "emoji": "Well done 👍🏽 and 😀!",
    "accents": "naïve café",
    "percent": "100% sure_thing \\ backslash",
    "code": "for i in range(10):\n    print(f'{i}')",
    "nothing": "",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory):
    with Library(tmp_path_factory.mktemp("search")) as library:
        for name, text in TEXTS.items():
            add_message(library, library.create(title=name), None, "user", text)
        yield library


def found_titles(library: Library, query: str) -> list[str]:
    return sorted(hit.title for hit in library.search(query) if hit.message is not None)


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("quick", ["plain"]),
        ("QUICK", ["plain"]),
        ("uic", ["plain"]),
        ("fox quick", ["plain"]),
        ('"quick brown"', ["plain"]),
        ('"brown quick"', []),
        ('"quick brown', ["plain"]),
        ("quick dogs", []),
        ('"no"', ["operators", "quotes"]),
        ('said "no"', ["quotes"]),
        ("O'Brien", ["quotes"]),
        ('"no" to', ["quotes"]),
        ('qu "ick br', ["plain"]),
        ("cats OR nothing", []),
        ("dogs NOT rats", ["operators"]),
        ("NEAR(x)", ["operators"]),
        ("col:val", ["operators"]),
        ("^first", ["operators"]),
        ("^fi", ["operators"]),
        ("pre*", ["operators"]),
        ("-minus", ["operators"]),
        ("(paren)", ["operators"]),
        ("{b}", ["operators"]),
        ("quic*", []),
        ("größe", ["upper"]),
        ("grösse", ["upper"]),
        ("ärger", ["upper"]),
        ("är", ["operators", "upper"]),
        ("жук", ["upper"]),
        ("жу", ["upper"]),
        ("天气", ["chinese"]),
        ("天天气很", ["chinese"]),
        ("园", ["chinese"]),
        ("猫", ["japanese"]),
        ("猫である", ["japanese"]),
        ("녕하", ["korean"]),
        ("안녕하세요 세계", ["korean"]),
        ("👍", ["emoji"]),
        ("👍🏽", ["emoji"]),
        ("😀", ["emoji"]),
        ("😀!", ["emoji"]),
        ("Well 😀", ["emoji"]),
        ("café", ["accents"]),
        ("ïv", ["accents"]),
        ("naive cafe", ["accents"]),
        ("100%", ["percent"]),
        ("%", ["percent"]),
        ("_", ["percent"]),
        ("sure_", ["percent"]),
        ("100%thing", []),
        ("\\", ["percent"]),
        ("print(f'{i}')", ["code"]),
        ("range(10):\n", ["code"]),
        ("x", ["operators", "plain"]),
        ("X", ["operators", "plain"]),
        ("quick\x00", ["plain"]),
        ("qui\x00ck", ["plain"]),
        ("quick\ud800", ["plain"]),
        ("'; DROP TABLE messages; --", []),
        ("'", ["code", "quotes"]),
    ],
)
def test_a_query_is_taken_literally(library: Library, query: str, where: list[str]) -> None:
    assert found_titles(library, query) == sorted(where)


@pytest.mark.parametrize("query", ["", " ", "\n\t", '"', '""', '" "', "\x00", '" " ""'])
def test_a_query_without_terms_finds_nothing(library: Library, query: str) -> None:
    assert library.search(query) == []


def test_a_very_long_query_is_truncated(library: Library) -> None:
    assert found_titles(library, '"quick" ' * 5000) == ["plain"]
    assert found_titles(library, "q" * 10**6) == []
    assert found_titles(library, '"' * 10**5) == []


def test_titles_are_searched(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        first = library.create(title="Straße nach Köln")
        add_message(library, first, None, "user", "nothing of it")
        (hit,) = library.search("KÖLN stra")
        assert (hit.conversation, hit.message, hit.where) == (first, None, "title")
        assert [hit.snippet.text[a:b] for a, b in hit.snippet.spans] == ["Stra", "Köln"]
        library.delete(first)
        assert not library.search("köln")


def test_thinking_is_searched_and_marked_as_thinking(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        conversation = library.create()
        question = add_message(library, conversation, None, "user", "Why?")
        reply = begin_reply(library, conversation, question.id, "m")
        finish_reply(library, reply.id, "Because.", "The user wants a reason.")
        for query in ("reason", "a", "wants Because"):
            hits = library.search(query)
            assert hits[0].message == reply.id
        assert library.search("reason")[0].where == "thinking"
        assert library.search("cause")[0].where == "content"


def test_the_index_follows_changes_of_a_reply(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        conversation = library.create()
        question = add_message(library, conversation, None, "user", "Why?")
        reply = begin_reply(library, conversation, question.id, "m")
        update_reply(library, reply.id, "first words")
        assert found_titles(library, "first") == ["Why?"]
        finish_reply(library, reply.id, "last words")
        assert found_titles(library, "first") == []
        assert found_titles(library, "last") == ["Why?"]


def test_hits_are_newest_first_and_limited(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        conversation = library.create(title="all words")
        ids = [add_message(library, conversation, None, "user", "words").id for _ in range(5)]
        for query in ("words", "wo"):
            hits = library.search(query, limit=4)
            assert [hit.message for hit in hits] == [None, *reversed(ids[2:])]


@pytest.mark.parametrize(
    ("text", "query", "shown", "marked"),
    [
        ("short text", "TEXT", "short text", ["text"]),
        ("a b a", "a", "a b a", ["a", "a"]),
        ("two\nlines\tand tabs", "lines", "two lines and tabs", ["lines"]),
        ("no such", "else", "no such", []),
        ("cat category", "cat category", "cat category", ["cat", "category"]),
        ("a.c abc", "a.c", "a.c abc", ["a.c"]),
        ("👍🏽 yes", "yes", "👍🏽 yes", ["yes"]),
    ],
)
def test_a_snippet_marks_the_terms(text, query, shown, marked) -> None:
    piece = make_snippet(text, parse_query(query))
    assert piece.text == shown
    assert [piece.text[start:end] for start, end in piece.spans] == marked


def test_a_snippet_is_the_text_around_the_first_term() -> None:
    piece = make_snippet(
        "x" * 1000 + "needle" + "y" * 1000, parse_query("needle"), before=10, width=30
    )
    assert piece.text == "…" + "x" * 10 + "needle" + "y" * 14 + "…"
    assert [piece.text[start:end] for start, end in piece.spans] == ["needle"]
