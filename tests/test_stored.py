"""Files of earlier versions, written by `stored/write.py`, open with the current code."""

import shutil
import time
from pathlib import Path

import pytest

import qwen35_mlx
from qwen35_mlx.library.exporting import to_json, to_markdown
from qwen35_mlx.library.importing import from_json
from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import Done, Notice
from qwen35_mlx.session.model import Model

VERSIONS = sorted(path for path in (Path(__file__).parent / "stored").iterdir() if path.is_dir())
CONVERSATIONS = (1, 2, 3, 4)
# Tokens of the stored snapshot. The states of 0.1.0 are of a demo model that is no longer shipped.
CACHED = {"0.1.0": 0, "0.1.0-guide": 45}


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def version(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def home(version: Path, tmp_path: Path) -> Path:
    return shutil.copytree(version, tmp_path / "home")


@pytest.fixture(scope="module")
def demo() -> Model:
    return qwen35_mlx.load("demo")


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_stored_conversation_exports_to_the_same_bytes(home, version, conversation):
    with Library(home) as library:
        exported = to_json(library.conversation(conversation))
    assert exported.encode() == (version / f"{conversation}.json").read_bytes()


def test_a_stored_conversation_exports_to_the_same_markdown(home, version, monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    with Library(home) as library:
        exported = to_markdown(library.conversation(1))
    assert exported.encode() == (version / "1.md").read_bytes()


@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_stored_export_is_imported_and_exported_to_the_same_bytes(
    version, tmp_path, conversation
):
    text = (version / f"{conversation}.json").read_text(encoding="utf-8")
    with Library(tmp_path) as library:
        new = library.add_conversation(from_json(text))
        assert to_json(library.conversation(new)) == text


def test_stored_drafts_titles_and_search(home):
    with Library(home) as library:
        assert library.draft(4) == "还没有发送\nsecond line"
        assert library.resolve("Robin and Ada") == 1
        assert [hit.conversation for hit in library.search("今天天气")] == [4, 4]
        assert {hit.conversation for hit in library.search("carry 1")} == {2}


def test_stored_message_versions_and_settings(home):
    with Library(home) as library:
        tree = library.conversation(1)
        edited, settings = library.conversation(1).siblings(3), library.conversation(2).settings
    assert len(edited) == 2
    positions = [tree.position(message.id) for message in tree.path()]
    assert positions == [(1, 1), (1, 1), (2, 2), (2, 2)]
    assert tree.settings.system == "You are Robin."
    assert settings.thinking is True
    assert settings.sampling["top_k"] == 12


def test_stored_states_are_whole(version):
    stored = [*version.rglob("*.state.safetensors"), *version.rglob("*.kv.safetensors")]
    assert len(stored) == 3
    for path in stored:
        snapshot_file.verify(path)


def test_the_next_turn_continues_from_the_stored_snapshot(home, version, demo):
    """The snapshot is found by its fingerprint and gives the same reply as a full prefill."""
    question, snapshots = "What is my name?", home / "states"
    with Library(home) as library:
        chat = Chat(demo, library=library, conversation=1)
        events = list(chat.send(question, max_tokens=12))
        chat.close()
    shutil.rmtree(snapshots)
    with Library(home) as library:
        library.select(1, library.conversation(1).path()[3].id)
        fresh = Chat(demo, library=library, conversation=1)
        again = list(fresh.send(question, max_tokens=12))
        fresh.close()
    done, computed = events[-1], again[-1]
    assert isinstance(done, Done)
    assert isinstance(computed, Done)
    assert not [event for event in events if isinstance(event, Notice)]
    assert done.usage.cached_tokens == CACHED[version.name]
    assert computed.usage.cached_tokens == 0
    assert done.message == computed.message
