"""Words of users as paths: each is a path or an error of one line."""

import os
from pathlib import Path

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import absolute_user_path, exists, is_dir, is_file, user_path

IMPOSSIBLE = {
    "~nobody-of-this-name/x": "no home folder ~nobody-of-this-name",
    "a" * 300: "too long",
    "a/" * 3000: "too long",
    "x\0y": "a character that no path can have",
    "half a pair \ud83d": "a character that no path can have",
}


@pytest.mark.parametrize("word", IMPOSSIBLE)
def test_a_word_that_is_no_path_is_an_error_of_one_line(word: str) -> None:
    with pytest.raises(Qwen35Error, match=IMPOSSIBLE[word]) as caught:
        user_path(word)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200
    assert not exists(Path(word))
    assert not is_dir(Path(word))
    assert not is_file(Path(word))


@pytest.mark.parametrize("word", ["two\nlines/~x", "~/missing", "", ".", "a//b/../c", "caf\udce9"])
def test_what_need_not_exist_is_a_path(word: str) -> None:
    assert user_path(word) == Path(word).expanduser()
    assert absolute_user_path(word).is_absolute()


def test_a_circle_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(Qwen35Error, match="circle"):
        user_path(tmp_path / "a")
    assert not exists(tmp_path / "a")


def test_a_file_in_place_of_a_folder_is_a_missing_path(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert user_path(tmp_path / "file" / "x") == tmp_path / "file" / "x"
    assert is_file(tmp_path / "file")
    assert is_dir(tmp_path)


def test_a_pipe_exists_and_is_no_regular_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert exists(tmp_path / "pipe")
    assert not is_file(tmp_path / "pipe")


def test_a_folder_that_may_not_be_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    def stat(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "stat", stat)  # root, as whom tests may run, may search everything
    with pytest.raises(Qwen35Error, match="may not be read"):
        user_path("private/x")
    assert not exists(Path("private/x"))


def test_a_current_folder_that_was_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert user_path("x") == Path("x")
    with pytest.raises(Qwen35Error, match="the current folder cannot be used"):
        absolute_user_path("x")
