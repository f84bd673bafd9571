"""A checkpoint of any supported layout, under one set of names.

Canonical names are mlx-lm's, without the prefix `language_model.`.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.checkpoint.adapters.adapter import Adapter, Target
from qwen35_mlx.checkpoint.adapters.files import read_adapter, unused_adapter
from qwen35_mlx.checkpoint.dtypes import floats_of, is_widened, most_common_dtype, network_dtype
from qwen35_mlx.checkpoint.expected_tensors import check_tensors, readers_of
from qwen35_mlx.checkpoint.gguf.header import GGUFTensor
from qwen35_mlx.checkpoint.gguf_names import is_gguf_file
from qwen35_mlx.checkpoint.index import sum_of_sizes
from qwen35_mlx.checkpoint.mtp import Head, with_norms
from qwen35_mlx.checkpoint.mtp_norms import NormReading
from qwen35_mlx.checkpoint.parts import take_parts
from qwen35_mlx.checkpoint.tensor_readers import Matrix, PackedMatrix, RowReader, plain
from qwen35_mlx.checkpoint.text_files import read_text_files
from qwen35_mlx.kernels.hadamard import HadamardRotation
from qwen35_mlx.kernels.quantized import Quantization
from qwen35_mlx.model.config import ModelConfig, Shard
from qwen35_mlx.model.weight_shapes import Shapes, mtp_tensors, trunk_tensors
from qwen35_mlx.text.text_files import TextFiles


class Checkpoint:
    """A model on disk, opened by `open_checkpoint`.

    Attributes:
        path: the folder with config.json and safetensors files, or the GGUF file.
        config: config.json as it is, without what describes the packing of rotated matrices; or as
            the metadata of the GGUF file give it.
        model: the same, brought together with the tensors.
        matrices: the tensors of the text network, by the canonical name of the plain tensor.
        files: that hold the weights.
        notes: lines for the user: what was decided, and what is not read.
        adapter: the file of an adapter that is fused into the matrices; None without one.
        mtp_norms: how the norms of the MTP head are read; None without a head.
    """

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        model: ModelConfig,
        matrices: Mapping[str, Matrix],
        files: Sequence[Path],
        notes: Sequence[str] = (),
        mtp_norms: NormReading | None = None,
    ):
        self.path = path
        self.config = config
        self.model = model
        self.files = tuple(files)
        self.notes = tuple(notes)
        self.adapter: Path | None = None
        self.mtp_norms = mtp_norms
        self._set_matrices(matrices)

    def _with(self, matrices: Mapping[str, Matrix]) -> "Checkpoint":
        """A copy with these matrices, in which nothing is cached that follows from the others."""
        changed = copy.copy(self)
        for name in ("dtype_of_most", "widened", "expected"):
            vars(changed).pop(name, None)
        changed._set_matrices(matrices)
        return changed

    def _set_matrices(self, matrices: Mapping[str, Matrix]) -> None:
        self.matrices = matrices
        self._readers = readers_of(matrices)

    def with_adapter(self, path: Path) -> "Checkpoint":
        """This checkpoint with a LoRA adapter of PEFT or mlx-lm fused into its matrices.

        They are computed as they are read. All other matrices stay as they are.

        Args:
            path: the adapter's folder, or its safetensors file.

        Raises:
            Qwen35Error: as `read_adapter`.
        """
        return self.fused(read_adapter(path, self.target))

    @property
    def target(self) -> Target:
        """What an adapter of this model may change."""
        return Target(self.expected, self.model.num_experts, self.model.tie_word_embeddings)

    def fused(self, adapter: Adapter) -> "Checkpoint":
        """This checkpoint with an adapter that was read for its `target`."""
        changed = self._with(adapter.fuse(self.matrices, self.expected))
        outdated = unused_adapter(self.path) if adapter.file.parent == self.path else ()
        kept = [note for note in self.notes if note not in outdated]
        changed.notes = (*kept, adapter.note(self.matrices))
        changed.files = tuple(dict.fromkeys((*self.files, adapter.file)))
        changed.adapter = adapter.file
        return changed

    def with_head(self, head: Head | None, notes: Sequence[str] = ()) -> "Checkpoint":
        """This checkpoint with another MTP head, if there is one, and more lines for the user."""
        matrices = dict(self.matrices)
        if head is not None:
            matrices = {n: one for n, one in matrices.items() if not n.startswith("mtp.")}
            matrices |= head.matrices
        changed = self._with(matrices)
        changed.notes = (*self.notes, *notes)
        if head is not None:
            changed.notes += head.notes
            changed.files = tuple(dict.fromkeys((*self.files, *head.files)))
            changed.mtp_norms = head.norms
        return changed

    def with_mtp_norms(self, raw: frozenset[str]) -> "Checkpoint":
        """This checkpoint with those norms of its MTP head read as w, and the others as 1 + w."""
        changed = self._with(with_norms(self.matrices, raw))
        changed.mtp_norms = NormReading(raw, certain=True)
        return changed

    def check_head(self, path: Path, matrices: Mapping[str, Matrix]) -> None:
        """Check the tensors of an MTP head for this model, from a file. Errors: as `verify`."""
        check_tensors(path, matrices, mtp_tensors(self.model))

    @cached_property
    def text(self) -> TextFiles:
        """Tokenizer, chat template and generation settings."""
        return read_text_files(self.path)

    def names(self) -> frozenset[str]:
        """Canonical names of all tensors; those of a packed matrix are its parts."""
        return frozenset(self._readers)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor as `read` returns it."""
        return self._readers[name].shape

    def dtype(self, name: str) -> mx.Dtype:
        """The dtype of a tensor as `read` returns it."""
        return self._readers[name].dtype

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        """Rows [start, stop) of axis 0, evaluated; only their bytes are read.

        A norm's weight is (1 + w): float32 where the file holds w, else as stored. Float-8
        becomes bfloat16.

        Raises:
            Qwen35Error: the file cannot be read.
        """
        reader = self._readers[name]
        if stop is None:
            stop = reader.shape[0] if reader.shape else 1
        return reader.read(start, stop)

    def plain(self, name: str) -> RowReader:
        """The plain values of a tensor by its canonical name, whether it is packed or not."""
        return plain(self.matrices[name])

    def with_matrices(self, matrices: Mapping[str, Matrix]) -> "Checkpoint":
        """The same checkpoint with some matrices in another form."""
        return self._with({**self.matrices, **matrices})

    def part(self, shard: Shard) -> "Checkpoint":
        """What one process reads of a network that is split over several.

        Raises:
            Qwen35Error: it cannot be split over so many.
        """
        model, matrices = take_parts(self.model, self.matrices, shard)
        changed = self._with(matrices)
        changed.model = model
        return changed

    @property
    def is_gguf(self) -> bool:
        return is_gguf_file(self.path)

    @property
    def nbytes(self) -> int:
        """Bytes of the files that hold the weights.

        Raises:
            Qwen35Error: one cannot be found.
        """
        return sum_of_sizes(self.files)

    def dtype_of(self, name: str) -> mx.Dtype:
        """The dtype that a matrix is made for: of its values or its scales.

        That of a quantised matrix of a GGUF file is float16, as the scales in its blocks are, not
        float32, which holds its values exactly.
        """
        return mx.float16 if self.is_in_blocks(name) else network_dtype(self.matrices[name])

    def is_in_blocks(self, name: str) -> bool:
        """Whether a matrix is in a quantised type of a GGUF file."""
        file = self.matrices[name].file
        return isinstance(file, GGUFTensor) and file.block[0] > 1

    @cached_property
    def dtype_of_most(self) -> mx.Dtype:
        """The dtype of most of the plain weights and the scales, one by one; see `dtype_of`.

        Scales that only float32 holds exactly do not make a model of 16 bits one of 32, nor do the
        float32 tensors of a GGUF file, where each weight of a block counts.
        """
        return most_common_dtype(
            (
                self.dtype_of(name),
                math.prod(matrix.shape) if self.is_in_blocks(name) else floats_of(matrix),
            )
            for name, matrix in self.matrices.items()
            if len(matrix.shape) > 1
        )

    @cached_property
    def widened(self) -> tuple[str, ...]:
        """Names of the matrices that are read as values, see `dtypes.is_widened`."""
        return tuple(name for name, matrix in self.matrices.items() if is_widened(matrix))

    @property
    def is_quantized(self) -> bool:
        """Whether a matrix is packed as MLX does."""
        return any(isinstance(matrix, PackedMatrix) for matrix in self.matrices.values())

    @property
    def has_mtp(self) -> bool:
        """Whether the checkpoint has a multi-token-prediction head."""
        return any(name.startswith("mtp.") for name in self._readers)

    @cached_property
    def expected(self) -> Shapes:
        """Shapes of the plain tensors that this model needs, with an MTP head if there is one."""
        return trunk_tensors(self.model) | (mtp_tensors(self.model) if self.has_mtp else {})

    def quantization(self, module: str) -> Quantization | None:
        """How the module of a canonical name is quantised; None if it is plain."""
        matrix = self.matrices.get(f"{module}.weight")
        return matrix.quantization if isinstance(matrix, PackedMatrix) else None

    def rotation(self, module: str) -> HadamardRotation | None:
        """What the packed rows of a module are rotated by; None if they are not.

        Raises:
            Qwen35Error: the file cannot be read, or a sign is neither 1 nor -1.
        """
        matrix = self.matrices.get(f"{module}.weight")
        rotation = matrix.rotation if isinstance(matrix, PackedMatrix) else None
        return None if rotation is None else rotation.load()

    def verify(self) -> None:
        """Check from the headers alone that the tensors are exactly those that the model needs.

        Raises:
            Qwen35Error: a tensor is missing, unknown, or of a wrong shape or dtype.
        """
        check_tensors(self.path, self.matrices, self.expected)
