"""Claims on titles: two windows that want the same one take turns."""

from pathlib import Path

import pytest

from qwen35_mlx.library.locks import NamedLocks
from qwen35_mlx.library.title_claims import TitleClaims

TITLE = "Notes"


@pytest.fixture
def windows(tmp_path: Path) -> list[TitleClaims]:
    return [TitleClaims(NamedLocks(tmp_path / "open")) for _ in range(3)]


def test_a_window_that_claims_again_at_once_leaves_the_title_to_the_one_that_waits(windows):
    one, two, _ = windows
    assert one.claim(TITLE)
    for holder, waiting in ((one, two), (two, one), (one, two)):
        assert not waiting.claim(TITLE)
        holder.release(TITLE)
        assert not holder.claim(TITLE)
        assert waiting.claim(TITLE)


def test_a_place_can_be_given_up(windows):
    one, two, three = windows
    assert one.claim(TITLE)
    assert not two.claim(TITLE)
    assert not three.claim(TITLE)  # two is next
    three.withdraw(TITLE)  # nothing of three's
    one.release(TITLE)
    assert not one.claim(TITLE)
    two.withdraw(TITLE)
    assert three.claim(TITLE)


def test_a_place_ends_with_its_window(tmp_path):
    locks = [NamedLocks(tmp_path / "open") for _ in range(2)]
    one, two = map(TitleClaims, locks)
    assert one.claim(TITLE)
    assert not two.claim(TITLE)
    locks[1].close()
    one.release(TITLE)
    assert one.claim(TITLE)


def test_titles_of_any_length_and_form_have_claims_of_their_own(windows):
    one, two, _ = windows
    titles = ("a" * 5000, "a" * 5001, "a/b", "\ud800", "A/B")
    for title in titles:
        assert one.claim(title)
        assert not two.claim(title)
