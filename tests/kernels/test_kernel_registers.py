"""What `scripts.kernel_registers` compiles, and the register limit that tilings keep to."""

import itertools

import pytest

from qwen35_mlx.kernels.matvec import tiling_for
from qwen35_mlx.kernels.quantized import rounds_for, simd_groups_for
from qwen35_mlx.kernels.selection import MAX_DECODE_TOKENS
from scripts.kernel_registers import fits, variants


@pytest.mark.parametrize(
    ("threads", "registers", "expected"),
    [
        (320, 168, True),
        (320, 181, False),  # 58,880 of 65,536, but three of ten warps share a quarter of them
        (256, 255, True),
        (512, 128, True),
        (512, 129, False),
    ],
)
def test_warps_share_the_registers_of_a_quarter_of_a_core(threads, registers, expected):
    assert fits(threads, registers) is expected


def test_all_kernels_of_a_sparse_and_a_dense_network_are_found():
    sparse, dense = (variants(shape, 4, [1, 3]) for shape in ("tiny", "tiny-dense"))
    names = {variant.kernel.name for variant in sparse | dense}
    assert names >= {"matvec", "matvec_light", "qk_norm_rope", "delta_net_decode"}
    assert names >= {"decode_attention_partial", "decode_attention_partial_8bit"}
    assert {name for name in names if name.startswith("experts")} >= {
        "experts_up_routed",
        "experts_down",
    }
    matvec = next(v for v in dense if v.kernel.name == "matvec")
    assert "constexpr int TOKENS = " in matvec.source
    assert "using InT = __nv_bfloat16;" in matvec.source


def test_two_sets_of_threads_leave_registers_for_their_products():
    widths = range(1024, 20_481, 512)
    for tokens, width, bits in itertools.product(
        range(1, MAX_DECODE_TOKENS + 1), widths, (2, 3, 4, 5, 6, 8, 16)
    ):
        tiling = tiling_for(tokens, width, bits, itemsize=2)
        groups = tiling.sets * simd_groups_for(width, bits)
        four_bits = bits == 4 and rounds_for(width, bits) == 1
        assert tiling.sets == 1 or groups <= (10 if four_bits else 8)
