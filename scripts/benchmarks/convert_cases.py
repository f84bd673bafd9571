"""The conversions that `scripts.benchmarks.convert` measures."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """One conversion.

    Attributes:
        source: its kind: a key of `sources.KINDS`, or "gguf" and one of `gguf_source.TYPES`.
        name: of what is made of it.
        options: of `qwen35-convert`; "ADAPTER" and "OUT" stand for paths.
        peer: whether mlx-lm's converter is measured; no bar holds for it.
        verify: whether the result is measured too. That takes the memory of two layers.
        stream: whether the source comes from a Hub on this machine.
        slow: whether it is measured at the smaller size alone.
    """

    source: str
    name: str
    options: tuple[str, ...] = ()
    peer: bool = False
    verify: bool = False
    stream: bool = False
    slow: bool = False

    @property
    def title(self) -> str:
        return f"{self.source} -> {self.name}"


_4BIT = ("-q", "--q-bits", "4")

CASES = (
    Case("bf16", "bf16"),
    Case("bf16", "bf16, mlx-lm", peer=True),
    Case("bf16", "4-bit", _4BIT),
    Case("bf16", "4-bit, mlx-lm", ("-q",), peer=True),
    Case("bf16", "recipe 4bit", ("-q",), slow=True),
    Case("bf16", "mxfp4", ("-q", "--q-mode", "mxfp4")),
    Case("bf16", "float16", ("--dtype", "float16")),
    Case("bf16", "bf16 with an adapter", ("--adapter-path", "ADAPTER")),
    Case("bf16", "GGUF Q8_0", ("--gguf", "OUT", "--gguf-type", "Q8_0"), slow=True),
    Case("bf16", "bf16, streamed", ("--stream",), stream=True),
    Case("bf16", "bf16, verified", verify=True),
    Case("fp8", "bf16"),
    Case("fp8", "4-bit", _4BIT),
    Case("gptq", "the same packing"),
    Case("gptq", "4-bit", _4BIT),
    Case("awq", "the same packing"),
    Case("compressed-tensors", "the same packing"),
    Case("nvfp4", "bf16", slow=True),
    Case("nvfp4", "4-bit", _4BIT),
    Case("mlx", "the same packing"),
    Case("mlx", "8-bit", ("-q", "--q-bits", "8")),
    Case("mlx", "HF layout", ("--dequantize",), slow=True),
    Case("gguf Q8_0", "the same packing"),
    Case("gguf Q4_K", "the same packing"),
    Case("gguf Q4_K", "4-bit", _4BIT),
    Case("gguf Q6_K", "8-bit", ("-q", "--q-bits", "8")),
)
