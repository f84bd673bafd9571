"""Files are for their owner only, and a deleted conversation leaves no byte in its home."""

import json
import os
import stat
from collections.abc import Generator
from pathlib import Path

import numpy as np
import pytest
from qwen35_chat.history import History
from qwen35_chat.settings_file import SettingsFile

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library import history
from qwen35_mlx.library.library import FILE, Library
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from tests.session.durable_child import done_of

# Its trigrams share no first byte with each other, so the search index holds them unabridged.
MARKER = "ξ한𝄞 the quick brown zebra"
OPTIONS = {"temperature": 0.0, "system": "Be brief and kind. " * 4}


@pytest.fixture
def own(model_folder: Path) -> Model:
    return load(model_folder)


def found(home: Path, model: Model) -> list[str]:
    """The files of a home in which the marker is, as text, as trigrams or as token ids."""
    ids = np.asarray(model.tokenizer.encode(MARKER), dtype="<i4")
    needles = [MARKER.encode(), "한𝄞".encode(), json.dumps("한𝄞")[1:-1].encode(), b"brown zebra"]
    needles += [ids[at : at + 4].tobytes() for at in range(len(ids) - 3)]
    return sorted(
        str(path.relative_to(home))
        for path in home.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() for needle in needles)
    )


def test_a_deleted_conversation_leaves_no_byte(own: Model, tmp_path: Path) -> None:
    home = tmp_path / "home"
    typed = History(home / history.FILE)
    with Library(home) as library:
        typed.add("Question 1")
        kept = Chat(own, library=library, **OPTIONS)
        done_of(kept.send("Question 1", max_tokens=8))
        typed.add(f"{MARKER} @file.txt")
        secret = Chat(own, library=library, **OPTIONS)
        text = f'{MARKER} @file.txt\n\n<file name="file.txt">\n{MARKER}\n</file>'
        done_of(secret.send(text, max_tokens=8))
        done_of(secret.retry(max_tokens=8, seed=3))
        library.save_draft(secret.conversation.id, MARKER)
        kept.close()
        secret.close()
        places = found(home, own)
        assert history.FILE in places
        assert {FILE, f"{FILE}-wal"} & set(places)  # which one depends on the last checkpoint
        assert any(place.startswith("states") for place in places)
        library.delete(secret.conversation.id)
        states = len(list((home / "states").rglob("*.safetensors")))
    assert found(home, own) == []
    left = len(list((home / "states").rglob("*.safetensors")))
    assert 0 < left < states
    assert History(home / history.FILE).texts == ["Question 1"]
    with Library(home) as library:
        again = Chat(own, library=library, conversation=kept.conversation.id)
        done = done_of(again.send("Question 2", max_tokens=4))
        assert done.usage.cached_tokens > 20
        again.close()


def test_a_shared_prefix_stays_for_the_other_conversation(own: Model, tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        chats = [Chat(own, library=library, **OPTIONS) for _ in range(2)]
        for chat in chats:
            done_of(chat.send("Question 1", max_tokens=8))
        library.delete(chats[0].conversation.id)
        for chat in chats:
            chat.close()
    assert list(tmp_path.glob("states/*/*.state.safetensors"))
    with Library(tmp_path) as library:
        other = Chat(own, library=library, conversation=chats[1].conversation.id)
        assert done_of(other.send("Question 2", max_tokens=4)).usage.cached_tokens > 20
        other.close()


def test_states_of_unknown_origin_go_with_the_next_deletion(tmp_path: Path) -> None:
    folder, weights = tmp_path / "states" / "model", tmp_path / "weights"
    folder.mkdir(parents=True)
    weights.mkdir()
    (folder.parent / "link").symlink_to(weights)
    state = f"0000000-0000005-{'0' * 32}-{'1' * 32}"
    for name in (f"{state}.kv.safetensors", f"{state}.state.safetensors.12-ab.tmp"):
        (folder / name).write_text("x")
    others = [weights / f"{state}.kv.safetensors", folder / "model.safetensors"]
    for file in others:
        file.write_text("x")
    Library(tmp_path).close()
    assert len(list(folder.iterdir())) == 3  # nothing was deleted
    with Library(tmp_path) as library:
        library.delete(library.create())
    assert list(folder.iterdir()) == others[1:]
    assert others[0].exists()


# Permissions


@pytest.fixture
def open_umask() -> Generator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def modes(home: Path) -> dict[str, int]:
    paths = [home, *home.rglob("*")]
    return {str(path.relative_to(home.parent)): stat.S_IMODE(path.stat().st_mode) for path in paths}


def write_everything(home: Path, model: Model) -> dict[str, int]:
    """Write every kind of file; the permissions while the library is open."""
    SettingsFile(home / "settings.toml").set("theme", "dark")
    with Library(home) as library:
        History(home / history.FILE).add("typed")
        chat = Chat(model, library=library, temperature=0.0)
        done_of(chat.send("Question 1", max_tokens=4))
        library.save_draft(None, "x")
        chat.close()
        return modes(home)


@pytest.mark.usefixtures("open_umask")
def test_all_files_are_for_the_owner_only(own: Model, tmp_path: Path) -> None:
    found = write_everything(tmp_path / "home", own)
    assert len(found) >= 9
    for name, mode in found.items():
        assert mode == (0o700 if (tmp_path / name).is_dir() else 0o600), name


@pytest.mark.usefixtures("open_umask")
def test_permissions_of_an_earlier_version_are_corrected(own: Model, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    write_everything(home, own)
    for path in [home, *home.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    outside = tmp_path / "outside"
    outside.write_text('theme = "dark"\n')
    outside.chmod(0o644)
    (home / "library-damaged-link.db").symlink_to(outside)
    Library(home).close()
    SettingsFile(home / "settings.toml").load()
    loose = {name for name, mode in modes(home).items() if mode & 0o077}
    # Within a folder that nobody else may enter, files of states are left as they are.
    assert all(name.endswith(".safetensors") or "link" in name for name in loose)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o644


def test_a_linked_home_is_corrected_and_a_shared_folder_is_not(tmp_path: Path) -> None:
    real, link, shared = tmp_path / "real", tmp_path / "link", tmp_path / "shared"
    real.mkdir(mode=0o755)
    link.symlink_to(real)
    Library(link).close()
    assert stat.S_IMODE(real.stat().st_mode) == 0o700
    shared.mkdir(mode=0o755)
    (shared / "other.txt").write_text("of another program")
    (shared / "other.txt").chmod(0o644)
    Library(shared).close()
    assert stat.S_IMODE(shared.stat().st_mode) == 0o755
    assert stat.S_IMODE((shared / "other.txt").stat().st_mode) == 0o644
    assert stat.S_IMODE((shared / FILE).stat().st_mode) == 0o600


# The history of what was typed


def test_the_history_stays_within_its_bounds_over_restarts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LIMIT", 10)
    file = tmp_path / history.FILE
    for number in range(50):
        History(file).add(f"message {number}")
        assert len(file.read_text().splitlines()) <= 20
    assert History(file).texts == [f"message {number}" for number in range(40, 50)]
    monkeypatch.setattr(history, "LIMIT_BYTES", 1000)
    for number in range(50):
        History(file).add(f"{number} " + "x" * 300)
        assert file.stat().st_size <= 2000 + 400
    assert History(file).texts[-1].startswith("49")


def test_a_window_does_not_bring_back_what_another_one_forgot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "LIMIT", 2)
    file = tmp_path / history.FILE
    window = History(file)
    window.add("secret")
    history.forget(file, ["secret and a file"])
    for number in range(8):
        window.add(f"message {number}")
    assert "secret" not in file.read_text()


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\n", b'{"a": 1}\n"one"\n[', b"[" * 100_000])
def test_a_damaged_history_is_read_as_far_as_it_goes(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / history.FILE
    file.write_bytes(content)
    assert History(file).texts in ([], ["one"])


def test_a_pipe_in_place_of_the_history_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / history.FILE
    os.mkfifo(file)
    with pytest.raises(Qwen35Error, match="cannot be written"):
        History(file).add("one")
    history.forget(file, ["one"])
