"""`preview_conversion`: what a conversion would write, from config.json and headers alone."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlx.core as mx

from qwen35_mlx.arguments import checked
from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import find_checkpoint, find_head, resolve_adapter
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.checkpoint.remote import RemoteShards, open_remote
from qwen35_mlx.checkpoint.safetensors import RemoteFile
from qwen35_mlx.conversion.float16 import STREAMED_NOTE
from qwen35_mlx.conversion.options import Options
from qwen35_mlx.conversion.plan_table import Row, memory, table
from qwen35_mlx.conversion.preparation import Prepared, prepare, taken
from qwen35_mlx.conversion.streaming import StreamedSource
from qwen35_mlx.conversion.writing import free_bytes, needed_bytes, read_copied_files
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.user_paths import absolute_user_path

_OPTION = "--dry-run"
_PREVIEW_NOTE = (
    "this chip emulates bfloat16: the conversion reads the weights, and writes float16 if they and "
    "the activations on a text fit; this is the plan with the dtype of the source"
)
_FLOAT16_NOTE = "whether all weights fit float16 is checked by the conversion, which reads them"


@dataclass(frozen=True, slots=True)
class ConversionPreview:
    """What a conversion would write, and take.

    Attributes:
        path: the folder that it would make.
        rows: by kind of tensor.
        memory: bytes in use with a full context, by its tokens.
        download_bytes: of the weights that are fetched before, and stay in the cache of the Hub; 0
            for those that are here or are streamed.
        needed_bytes: that must be free where the result will be.
        free_bytes: that are free there.
        warnings: a line each.
    """

    path: Path
    rows: tuple[Row, ...]
    memory: Mapping[int, int]
    download_bytes: int
    needed_bytes: int
    free_bytes: int
    warnings: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Of all tensors."""
        return sum(row.nbytes for row in self.rows)

    @property
    def parameters(self) -> int:
        """The number of weights of the plain model, with its MTP head."""
        return sum(row.parameters for row in self.rows)

    @property
    def bits_per_weight(self) -> float:
        return self.nbytes * 8 / self.parameters


@dataclass(frozen=True, slots=True)
class _Source:
    """A checkpoint whose weights are not read.

    Attributes:
        remote: the repository of which only headers are here; None if all is.
        head: the same of its MTP head, if that has a repository of its own.
    """

    checkpoint: Checkpoint
    remote: StreamedSource | None
    head: RemoteShards | None

    @property
    def download_bytes(self) -> int:
        trunk = self.remote.shards.nbytes if self.remote else 0
        return trunk + (self.head.nbytes if self.head else 0)


@checked
def preview_conversion(
    hf_path: str | Path,
    mlx_path: str | Path = "mlx_model",
    *,
    quantize: bool = False,
    recipe: str | None = None,
    q_bits: int | None = None,
    q_group_size: int | None = None,
    q_mode: str = "affine",
    dequantize: bool = False,
    adapter_path: str | Path | None = None,
    dtype: str | None = None,
    revision: str | None = None,
    mtp: str | Path | None = None,
    stream: bool = False,
) -> ConversionPreview:
    """What `convert` would write with the same arguments. Nothing is written.

    Of a repository that is not on this disk, config.json, the index, the headers of the weight
    files and small text files are fetched, and norms where the plan depends on their values. An
    adapter is downloaded as for a conversion. The readings of the norms of an MTP head are not
    tried on a text.

    Raises:
        Qwen35Error: the conversion would be refused, the network fails, or the repository has GGUF
            files, which need to be downloaded.
    """
    options = Options.of(
        quantize=quantize,
        recipe=recipe,
        q_bits=q_bits,
        q_group_size=q_group_size,
        q_mode=q_mode,
        dequantize=dequantize,
        dtype=dtype,
    )
    out = absolute_user_path(mlx_path)
    head = None if mtp is None else str(mtp)
    adapter = None if adapter_path is None else resolve_adapter(str(adapter_path))
    try:
        with _opened(str(hf_path), revision, head, stream) as source:
            return _preview(source, out, options, adapter, stream)
    except OSError as error:
        raise Qwen35Error(
            f"cannot read {hf_path}: {error.filename or 'a file'}: {error.strerror or error}"
        ) from error


def _preview(
    source: _Source, out: Path, options: Options, adapter: Path | None, stream: bool
) -> ConversionPreview:
    checkpoint, remote = source.checkpoint, source.remote
    if adapter is not None:
        checkpoint = checkpoint.with_adapter(adapter)
    prepared = prepare(
        checkpoint,
        options,
        remote.shards.names if remote else read_copied_files(checkpoint),
        run_head=False,
        unread_note=STREAMED_NOTE if stream else _PREVIEW_NOTE,
    )
    tensors = prepared.plan.tensors
    held = remote.nbytes([tensor.name for tensor in tensors]) if remote and stream else 0
    return ConversionPreview(
        path=out,
        rows=tuple(table(tensors)),
        memory=memory(prepared.checkpoint.model, tensors),
        download_bytes=0 if stream else source.download_bytes,
        needed_bytes=needed_bytes(prepared.plan.nbytes, held),
        free_bytes=free_bytes(out),
        warnings=tuple(_warnings(prepared, options, out)),
    )


def _warnings(prepared: Prepared, options: Options, out: Path) -> Iterator[str]:
    yield from prepared.notes
    if options.dtype is not None and options.dtype == mx.float16:
        yield _FLOAT16_NOTE
    if line := taken(out):
        yield line


@contextmanager
def _opened(name: str, revision: str | None, head: str | None, stream: bool) -> Iterator[_Source]:
    """Open a source without its weights. What is fetched of it is removed at the end."""
    path = None if stream else find_checkpoint(name, revision)
    with TemporaryDirectory(prefix="qwen35-preview-") as temporary:
        folder = Path(temporary)
        head_path = None if head is None else find_head(head)
        head_shards, of_head = None, dict[Path, RemoteFile]()
        if head is not None and head_path is None:
            head_shards = _fetch(head, None, folder / "head")
            head_path, of_head = head_shards.folder, {**head_shards.headers}
        if path is not None:
            yield _Source(open_checkpoint(path, head_path, of_head), None, head_shards)
        else:
            option = "--stream" if stream else _OPTION
            shards = _fetch(name, revision, folder / "model", option)
            remote = StreamedSource(shards, head_path, of_head)
            yield _Source(remote.checkpoint, remote, head_shards)


def _fetch(name: str, revision: str | None, folder: Path, option: str = _OPTION) -> RemoteShards:
    return open_remote(name, revision, folder, headers_only=True, option=option)
