"""Kernels that fail in use: the reference takes over."""

import pytest

from qwen35_mlx.kernels.gpu_kernel import KernelError
from qwen35_mlx.kernels.selection import REFERENCE, KernelSelection


def fail() -> str:
    raise KernelError("kernel 'matvec' failed")


def test_a_kernel_that_fails_gives_way_to_its_reference_with_one_line():
    lines = []
    selection = KernelSelection(matmul_decode={"a": "fast", "b": "fast"}, on_failure=lines.append)
    assert selection.attempt("matmul_decode", fail, lambda: "plain", "a") == "plain"
    assert selection.matmul_decode == {"a": REFERENCE, "b": "fast"}
    assert selection.fallbacks == 1
    (line,) = lines
    assert line.startswith("kernel 'matvec' failed; ")


def test_other_errors_pass_and_so_do_all_while_variants_are_tried():
    selection = KernelSelection(delta_decode="fast", on_failure=print)
    with pytest.raises(ZeroDivisionError):
        selection.attempt("delta_decode", lambda: 1 // 0, lambda: 1)
    selection.on_failure = None
    with pytest.raises(KernelError):
        selection.attempt("delta_decode", fail, lambda: "plain")
    assert selection.delta_decode == "fast"
