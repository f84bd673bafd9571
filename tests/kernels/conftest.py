import pytest

from qwen35_mlx.kernels import portable
from tests.metal_emulator import emulated, unsupported


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels compile and run as on Metal, in the emulator."""
    if reason := unsupported():
        pytest.skip(reason)

    def compiled(kernel: portable.Kernel) -> portable.Launcher:
        return emulated(
            name=f"qwen35_{kernel.name}",
            input_names=list(kernel.inputs),
            output_names=list(kernel.outputs),
            source=kernel.body,
        )

    monkeypatch.setattr(portable, "compiled", compiled)
    monkeypatch.setattr(portable, "backend", lambda: "metal")
