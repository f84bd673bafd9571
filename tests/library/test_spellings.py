"""Conversations are found by any spelling of their words: see `tests/text/test_folding.py`."""

from pathlib import Path
from unicodedata import normalize

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.library import Library
from qwen35_mlx.library.verifying import rebuild_search
from tests.library.messages import add_message, begin_reply, finish_reply, write_old_library
from tests.text.test_folding import ALIKE, DIFFERENT

VOICING = ("\uff9e", "\uff9f")  # marks of half-width kana, which make other letters
BOTH_WAYS = [*ALIKE.values(), *(pair[::-1] for pair in ALIKE.values())]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory):
    """For each spelling a conversation with its words as title, text and thinking, after a NUL."""
    with Library(tmp_path_factory.mktemp("spellings")) as library:
        for stored, typed in ALIKE.values():
            for words in (stored, typed):
                title = normalize("NFD", " ".join(words.replace("\x00", " ").split()))
                at = library.create(title=title)
                asked = add_message(library, at, None, "user", f"\x00 first {words}, last")
                reply = begin_reply(library, at, asked.id, "m")
                finish_reply(library, reply.id, "no", normalize("NFC", f"so \x00\x00 {words}"))
        yield library


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(("stored", "typed"), BOTH_WAYS)
def test_a_search_finds_every_spelling(library: Library, stored: str, typed: str, form) -> None:
    words = " ".join(normalize(form, typed).replace("\x00", " ").split())
    hits = library.search(f'"{words}"')
    # Control characters are spaces, of which a title has one.
    assert [hit.where for hit in hits].count("title") in (0, 2)
    assert [hit.where for hit in hits].count("content") == 2
    assert [hit.where for hit in hits].count("thinking") == 2
    assert all(hit.snippet.spans for hit in hits)
    assert len(library.search_conversations(words)) >= 2


@pytest.mark.parametrize(("stored", "typed"), BOTH_WAYS)
def test_each_character_is_found_by_itself(library: Library, stored: str, typed: str) -> None:
    """Shorter words than the index has are looked for in a scan."""
    every = {hit.conversation for hit in library.search(stored)}
    for at in range(0, len(typed) - 1, 3):
        word, behind = typed[at : at + 2].strip(), typed[at + 2 : at + 3]
        if word.isalnum() and behind not in VOICING:
            assert every <= {hit.conversation for hit in library.search(word, limit=500)}, word


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values())
def test_another_word_is_not_found(tmp_path: Path, one: str, other: str) -> None:
    with Library(tmp_path) as library:
        add_message(library, library.create(title=one), None, "user", f"{one} {one}")
        assert not library.search(other)
        assert len(library.search(one)) == 2
        with pytest.raises(Qwen35Error, match="no conversation is called"):
            library.resolve(other)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize(("stored", "typed"), BOTH_WAYS)
def test_a_name_resolves_in_every_spelling(tmp_path: Path, stored: str, typed: str, form) -> None:
    with Library(tmp_path) as library:
        library.create(title="&")
        one = library.create(title=" ".join(stored.replace("\x00", " ").split()))
        assert library.resolve(normalize(form, typed)) == one
        assert library.resolve(normalize(form, typed.replace("\x00", " ").split()[-1])) == one


def test_the_spelling_as_it_was_written_goes_first(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        plain, accent = library.create(title="resume"), library.create(title="résumé")
        assert (library.resolve("resume"), library.resolve("résumé")) == (plain, accent)
        with pytest.raises(Qwen35Error, match="2 conversations are called 'Resumé'"):
            library.resolve("Resumé")


@pytest.mark.parametrize("version", [1, 2])
def test_an_earlier_library_is_indexed_again(tmp_path: Path, version: int) -> None:
    write_old_library(tmp_path, version, ["cafe\u0301 \x00 ＡＢＣ after", "Straße ｶﾞ"])
    with Library(tmp_path) as library:
        for words, count in (("café", 1), ("abc", 1), ("STRASSE", 1), ("ガ", 1), ("after", 1)):
            assert len(library.search(words)) == count, words
        add_message(library, 1, 2, "user", "Cafe")
        assert len(library.search("cafe")) == 2


def test_an_index_that_differs_is_made_again(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        add_message(library, library.create(), None, "user", "Grüße")
        assert not rebuild_search(library)
        for damage in (
            "UPDATE search SET content = 'else'",
            "DELETE FROM search",
            "INSERT INTO search (rowid, content, thinking) VALUES (7, 'a', 'b')",
            "UPDATE search_data SET block = x'00'",
        ):
            with library.transaction() as db:
                db.execute(damage)
            assert rebuild_search(library), damage
            assert not rebuild_search(library)
            assert [hit.where for hit in library.search("grusse")] == ["title", "content"]
