"""Repositories of the Hub, with their config.json and their names, load."""

import re
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.load import load_network
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.model.reconcile import reconcile
from tests.checkpoint.hub_layouts import (
    NAMES,
    PACKINGS,
    HubLayout,
    canonical_tensors,
    model_config,
    read_layout,
    stored_tensors,
    write_layout,
)

LAYOUTS = {name: read_layout(name) for name in NAMES}
UNPACKED = [name for name, layout in LAYOUTS.items() if not layout.quantized]


def written(tmp_path: Path, layout: HubLayout) -> Path:
    tensors = stored_tensors(layout, canonical_tensors(layout))
    return write_layout(tmp_path / "repository", layout, tensors)


def test_there_are_layouts_of_every_kind():
    assert len(LAYOUTS) >= 8
    assert {how for layout in LAYOUTS.values() for how in layout.quantized.values()} == {*PACKINGS}


@pytest.mark.parametrize("name", [name for name in NAMES if LAYOUTS[name].quantized])
def test_every_pattern_of_packed_modules_packs_some(name: str):
    layout = LAYOUTS[name]
    stored = stored_tensors(layout, canonical_tensors(layout))
    packed = {tensor.rpartition(".")[0] for tensor in stored if "scale" in tensor}
    assert packed
    for pattern in layout.quantized:
        assert any(re.search(pattern, f"{module}.weight") for module in packed)


@pytest.mark.parametrize("name", NAMES)
def test_a_repository_loads_and_computes(tmp_path: Path, name: str):
    layout = LAYOUTS[name]
    checkpoint = open_checkpoint(written(tmp_path, layout))
    checkpoint.verify()
    assert checkpoint.has_mtp == layout.mtp
    network = load_network(checkpoint, notice=lambda line: None)
    logits = network.logits(network(network.token_array([1, 2, 3]), network.make_cache()))
    assert np.isfinite(np.array(logits.astype(mx.float32))).all()


@pytest.mark.parametrize("name", UNPACKED)
def test_every_tensor_of_a_plain_repository_is_read_as_it_is_meant(tmp_path: Path, name: str):
    layout = LAYOUTS[name]
    expected = canonical_tensors(layout)
    checkpoint = open_checkpoint(written(tmp_path, layout))
    assert checkpoint.names() == set(expected)
    for tensor, value in expected.items():
        got = checkpoint.read(tensor)
        assert (tensor, got.dtype, got.shape) == (tensor, value.dtype, value.shape)
        assert mx.array_equal(got, value), tensor


@pytest.mark.parametrize("name", NAMES)
def test_published_settings_need_no_note(name: str):
    layout = LAYOUTS[name]
    if "hadamard" in layout.quantized.values():
        return
    names = canonical_tensors(layout).keys()
    assert reconcile(layout.config, names) == (model_config(layout), ())
