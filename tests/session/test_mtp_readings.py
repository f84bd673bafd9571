"""How the norms of an MTP head are read is tried once for each model."""

import json
import shutil
from pathlib import Path

import pytest

from qwen35_mlx import demo
from qwen35_mlx.checkpoint import load as network_load
from qwen35_mlx.checkpoint.mtp import head_norms
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.session import mtp_readings
from qwen35_mlx.session.load import load
from tests.checkpoint.cases import demo_with_unmarked_head


@pytest.fixture
def file(tmp_path, monkeypatch) -> Path:
    """Of the test's own."""
    path = tmp_path / "deep" / "mtp_norms.json"
    monkeypatch.setattr(mtp_readings, "readings_file", lambda: path)
    return path


@pytest.fixture
def unmarked(tmp_path) -> Path:
    """A model of whose head the files leave doubt: its norms hold 1 + w."""
    return demo_with_unmarked_head(tmp_path / "unmarked", raw=False)


@pytest.fixture
def trials(monkeypatch) -> list[object]:
    """The trials so far."""
    seen, confirm = [], network_load.confirm_head
    monkeypatch.setattr(
        network_load, "confirm_head", lambda *given: seen.append(given) or confirm(*given)
    )
    return seen


def gain(model) -> list[float]:
    return model.network.mtp.hidden_norm.weight.tolist()


def test_a_later_load_makes_no_trial_and_reads_the_same(file, trials, unmarked):
    first = load(unmarked)
    assert len(trials) == 1
    (names,) = json.loads(file.read_text()).values()
    later = load(unmarked)
    assert len(trials) == 1
    assert gain(later) == gain(first)
    # What is remembered is what is read.
    every = sorted(head_norms(first.network.config))
    assert names != every
    file.write_text(json.dumps(dict.fromkeys(json.loads(file.read_text()), every)))
    assert gain(load(unmarked)) == pytest.approx([g + 1 for g in gain(first)], abs=1e-6)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"KEY": ["mtp.x"]}', '{"KEY": [1]}', '{"KEY": 1}']
)
def test_a_damaged_file_remembers_nothing_and_is_replaced(file, content):
    checkpoint = open_checkpoint(demo.folder())
    mtp_readings.remember(checkpoint, frozenset())
    assert mtp_readings.remembered(checkpoint) == frozenset()
    (key,) = json.loads(file.read_text())
    file.write_text(content.replace("KEY", key))
    assert mtp_readings.remembered(checkpoint) is None
    mtp_readings.remember(checkpoint, frozenset())
    assert json.loads(file.read_text()) == {key: []}


def test_other_weights_are_another_model(file, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(demo.folder(), copy)
    mtp_readings.remember(open_checkpoint(copy), frozenset())
    head = copy / "mtp.safetensors"
    data = bytearray(head.read_bytes())
    data[-1] ^= 1
    head.write_bytes(data)
    assert mtp_readings.remembered(open_checkpoint(copy)) is None


def test_a_head_that_is_not_used_is_not_tried(file, trials, unmarked):
    load(unmarked, mtp="off")
    assert trials == []
    assert not file.exists()


def test_a_cache_folder_that_cannot_be_written_is_no_error(file, trials, unmarked):
    file.parent.write_text("a file where the folder should be")
    assert load(unmarked).network.mtp is not None
    assert len(trials) == 1


def test_the_oldest_are_forgotten(file, monkeypatch):
    monkeypatch.setattr(mtp_readings, "MOST", 2)
    file.parent.mkdir()
    file.write_text(json.dumps({"a": [], "b": []}))
    mtp_readings.remember(open_checkpoint(demo.folder()), frozenset())
    assert next(iter(json.loads(file.read_text()))) == "b"
    assert len(json.loads(file.read_text())) == 2
