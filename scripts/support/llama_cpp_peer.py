"""llama.cpp, through the package llama-cpp-python, as a peer of the benchmarks."""

import ctypes
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.files import one_line


class LlamaCpp:
    """A GGUF file in llama.cpp: all layers on the GPU, flash attention, keys and values in float16.

    Args:
        context: tokens of prompt and reply together.
        chunk: tokens of one pass over the prompt.

    Attributes:
        name: "llama.cpp", and that it is a build without a GPU where it is one.
        nbytes: of the weights.

    Raises:
        Qwen35Error: llama.cpp does not load the file.
    """

    def __init__(self, path: Path, context: int, chunk: int):
        self._api: Any = llama_cpp_package()
        try:
            self._llama = self._api.Llama(
                str(path),
                n_gpu_layers=-1,
                flash_attn=True,
                n_ctx=context,
                n_batch=chunk,
                n_ubatch=chunk,
                verbose=False,
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise Qwen35Error(
                f"llama.cpp does not load {path} ({one_line(error)}): update llama-cpp-python"
            ) from error
        self._chunk = chunk
        vocabulary = self._api.llama_model_get_vocab(self._llama.model)
        self._vocab_size = self._api.llama_vocab_n_tokens(vocabulary)
        self.name = f"llama.cpp{'' if self._api.llama_supports_gpu_offload() else ', CPU build'}"
        self.nbytes = int(self._api.llama_model_size(self._llama.model))

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits after the last of `ids`, which follow those of the calls before; a view.

        Raises:
            Qwen35Error: llama.cpp cannot compute them.
        """
        for start in range(0, len(ids), self._chunk):
            chunk = ids[start : start + self._chunk]
            tokens = (self._api.llama_token * len(chunk))(*chunk)
            batch = self._api.llama_batch_get_one(tokens, len(chunk))
            if code := self._api.llama_decode(self._llama.ctx, batch):
                raise Qwen35Error(
                    f"llama.cpp cannot compute {len(chunk)} tokens (code {code}): "
                    "it may lack memory; choose a smaller --chunk or --prompt"
                )
        found = self._api.llama_get_logits_ith(self._llama.ctx, -1)
        pointer = ctypes.cast(found, ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, (self._vocab_size,))

    def generate(self, prompt: list[int]) -> Iterator[int]:
        """The greedy tokens after a prompt, without end."""
        self._api.llama_memory_clear(self._api.llama_get_memory(self._llama.ctx), True)
        token = int(self.logits(prompt).argmax())
        while True:
            yield token
            token = int(self.logits([token]).argmax())

    def close(self) -> None:
        self._llama.close()


def llama_cpp_package() -> Any:
    """The module.

    Raises:
        Qwen35Error: it is not installed, or its library does not load.
    """
    try:
        import llama_cpp  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise Qwen35Error(
            f"the peer llama.cpp needs the package {error.name!r}: pip install llama-cpp-python"
        ) from None
    except (OSError, RuntimeError) as error:
        raise Qwen35Error(
            f"llama-cpp-python does not start ({one_line(error)}): install it again"
        ) from error
    return llama_cpp
