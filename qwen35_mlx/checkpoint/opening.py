"""From the names that a user gives, and from files, to an open checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.checkpoint.adapters.files import read_unmerged, unused_adapter
from qwen35_mlx.checkpoint.adapters.peft import is_adapter_tensor
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.folder import read_config, weight_files
from qwen35_mlx.checkpoint.formats import hadamard
from qwen35_mlx.checkpoint.formats.matrices import read_matrix
from qwen35_mlx.checkpoint.formats.method import MODELOPT_CONFIG, read_method
from qwen35_mlx.checkpoint.gguf.model import read_gguf
from qwen35_mlx.checkpoint.gguf_names import is_gguf_file
from qwen35_mlx.checkpoint.hub import Progress, resolve_adapter, resolve_checkpoint, resolve_head
from qwen35_mlx.checkpoint.index import index_notes
from qwen35_mlx.checkpoint.layouts import Parts, read_layout
from qwen35_mlx.checkpoint.mtp import Trunk, find_head, read_given_head
from qwen35_mlx.checkpoint.mtp_norms import NormReading
from qwen35_mlx.checkpoint.names import canonical_name
from qwen35_mlx.checkpoint.safetensors import RemoteFile
from qwen35_mlx.checkpoint.tensor_readers import Matrix
from qwen35_mlx.files import read_json_object
from qwen35_mlx.model.config import check_model_type
from qwen35_mlx.model.reconcile import reconcile
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors


@dataclass(frozen=True, slots=True)
class ModelNames:
    """What a model is made of, as for `qwen35_mlx.load`."""

    name: str
    revision: str | None = None
    mtp_path: str | None = None
    adapter_path: str | None = None

    def resolve(
        self, progress: Progress | None = None, notice: Callable[[str], None] | None = None
    ) -> Path:
        """The checkpoint on this machine, downloaded if need be. Errors: `resolve_checkpoint`."""
        return resolve_checkpoint(
            self.name, revision=self.revision, progress=progress, notice=notice
        )

    def open(self, path: Path, progress: Progress | None = None) -> Checkpoint:
        """Open what was found, with its MTP head and the adapter.

        Raises:
            Qwen35Error: as `open_checkpoint`; or head or adapter are not found or do not fit.
        """
        head = None if self.mtp_path is None else resolve_head(self.mtp_path)
        checkpoint = open_checkpoint(path, head)
        if self.adapter_path is not None:
            adapter = resolve_adapter(self.adapter_path, progress)
            checkpoint = checkpoint.with_adapter(adapter)
        return checkpoint


def open_checkpoint(
    path: Path, mtp: Path | None = None, remote: Mapping[Path, RemoteFile] | None = None
) -> Checkpoint:
    """Read config.json and the headers of the weight files, but no weights.

    Args:
        path: the folder with config.json and safetensors files, or the GGUF file.
        mtp: the folder, or the safetensors or GGUF file, of the MTP head. None looks in the
            checkpoint and beside it: see `checkpoint.mtp`.
        remote: the files of which only the header is here.

    Raises:
        Qwen35Error: a file is missing or damaged, or it is not a Qwen3.5 checkpoint in a supported
            layout or quantisation; or `mtp` has no head of this model. An MTP head that is found
            and cannot be read is left out, with a note.
    """
    if is_gguf_file(path):
        return _open_gguf(path, mtp)
    config = read_config(path)
    # Before the weights: "not Qwen3.5" is a better message than what they would lead to.
    check_model_type(config)
    method = read_method(config, read_json_object(path / MODELOPT_CONFIG))
    stored = weight_files(path, remote)
    tensors = {name: one for name, one in stored.items() if not is_adapter_tensor(name)}
    packing, config = config, hadamard.plain_config(config)
    model, notes = reconcile(config, list(filter(None, map(canonical_name, tensors))))
    notes = (*index_notes(path), *notes)
    shapes = trunk_tensors(model) | mtp_tensors(model)
    blocks = hadamard.blocks_by_module(packing, shapes)

    def read(module: str, parts: Parts) -> tuple[Matrix, list[str]]:
        shape = shapes.get(f"{module}.weight")
        signs = parts.get("signs") if blocks.get(module) else None
        stored = {part: tensor for part, tensor in parts.items() if tensor is not signs}
        matrix, unused = read_matrix(module, stored, method, shape[-1] if shape else None)
        if module in blocks:
            matrix = hadamard.rotated(module, matrix, blocks[module], signs)
        return matrix, unused

    of_head = {raw for raw in tensors if (name := canonical_name(raw)) and name.startswith("mtp.")}
    own = {name: tensor for name, tensor in tensors.items() if name not in of_head}
    layout = read_layout(own, path, model.num_experts, read)
    unmerged = {name: tensor for name, tensor in stored.items() if name not in tensors}
    files = sorted({tensor.path for tensor in (*own.values(), *unmerged.values())})
    checkpoint = Checkpoint(path, config, model, layout.matrices, files, notes)
    trunk = Trunk(
        path,
        model,
        method,
        {name: tensors[name] for name in of_head},
        checkpoint.files,
        layout.zero_centred,
        layout.matrices.get("model.norm.weight"),
        checkpoint.check_head,
        remote or {},
    )
    head, lines = find_head(trunk) if mtp is None else (read_given_head(trunk, mtp), ())
    unread = [*layout.unread, *(head.unread if head else ())]
    checkpoint = checkpoint.with_head(head, (*_unread_note(unread), *lines))
    if unmerged:
        return checkpoint.fused(read_unmerged(path, unmerged, checkpoint.target))
    checkpoint.notes += unused_adapter(path)
    return checkpoint


def _open_gguf(path: Path, mtp: Path | None) -> Checkpoint:
    file = read_gguf(path)
    model, notes = reconcile(file.config, file.tensors)
    notes = (*notes, *_unread_note(file.left_out))
    norms = None
    if any(name.startswith("mtp.") for name in file.tensors):
        norms = NormReading(frozenset(), certain=True)
    checkpoint = Checkpoint(path, file.config, model, file.tensors, file.files, notes, norms)
    if mtp is None:
        return checkpoint
    final_norm = file.tensors.get("model.norm.weight")
    trunk = Trunk(path, model, None, {}, checkpoint.files, False, final_norm, checkpoint.check_head)
    return checkpoint.with_head(read_given_head(trunk, mtp))


def _unread_note(unread: Sequence[str]) -> tuple[str, ...]:
    if not unread:
        return ()
    more = f" and {len(unread) - 1} more tensors" if unread[1:] else ""
    return (f"not read, as only other programs use them: '{unread[0]}'{more}",)
