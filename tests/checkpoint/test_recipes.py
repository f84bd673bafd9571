"""Quantisation modes, and which tensors are quantised how."""

import pytest

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.recipes import Quantization
from qwen35_mlx.errors import Qwen35Error


@pytest.mark.parametrize(
    ("mode", "group_size", "bits"),
    [("affine", 64, 4), ("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8)],
)
def test_defaults_of_a_mode(mode: str, group_size: int, bits: int):
    assert recipes.quantization(mode) == Quantization(group_size, bits, mode)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("group_size", [32, 64, 128])
def test_affine_bits_and_group_sizes(bits: int, group_size: int):
    assert recipes.quantization("affine", bits, group_size) == Quantization(group_size, bits)


@pytest.mark.parametrize(
    ("mode", "bits", "group_size", "says"),
    [
        ("affine", 7, None, "q-bits 7 does not exist in affine mode: choose 1 or 2 or 3"),
        ("affine", 0, None, "q-bits 0 does not exist"),
        ("affine", 4, 16, "q-group-size 16 does not exist in affine mode"),
        ("affine", 4, 0, "q-group-size 0 does not exist"),
        ("mxfp4", 8, None, "q-bits 8 does not exist in mxfp4 mode: choose 4"),
        ("nvfp4", 4, 32, "q-group-size 32 does not exist in nvfp4 mode: choose 16"),
        ("q4_k", None, None, "q-mode 'q4_k' is not known: choose one of affine"),
    ],
)
def test_a_quantisation_that_mlx_lacks_is_refused(mode: str, bits: int, group_size: int, says: str):
    with pytest.raises(Qwen35Error, match=says):
        recipes.quantization(mode, bits, group_size)


MODE = Quantization(32, 4, "mxfp4")


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.embed_tokens.weight", (8, 64), MODE),
        ("lm_head.weight", (8, 64), MODE),
        ("model.layers.0.mlp.switch_mlp.down_proj.weight", (4, 8, 64), MODE),
        ("model.layers.0.linear_attn.in_proj_a.weight", (2, 64), MODE),
        ("mtp.fc.weight", (8, 128), MODE),
        ("model.layers.0.mlp.gate_proj.weight", (8, 64), MODE),
        ("model.layers.0.mlp.gate.weight", (8, 64), Quantization(64, 8)),
        ("mtp.layers.0.mlp.shared_expert_gate.weight", (1, 64), Quantization(64, 8)),
        ("model.layers.0.mlp.gate.weight", (8, 96), None),
        ("model.layers.0.mlp.down_proj.weight", (8, 48), None),
        ("model.layers.0.linear_attn.conv1d.weight", (64, 4, 1), None),
        ("model.layers.0.linear_attn.conv1d.weight", (64, 1, 32), None),
        ("model.layers.0.linear_attn.A_log", (64,), None),
        ("model.layers.0.linear_attn.dt_bias", (64,), None),
        ("model.norm.weight", (64,), None),
    ],
)
def test_which_tensors_are_quantised_how(
    name: str, shape: tuple[int, ...], expected: Quantization | None
):
    assert recipes.quantization_for(name, shape, MODE) == expected
