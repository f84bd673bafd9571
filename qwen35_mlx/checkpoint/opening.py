"""From the names that a user gives to an open checkpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.hub import Progress, resolve_adapter, resolve_checkpoint, resolve_head


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
            Qwen35Error: as `Checkpoint.open`; or head or adapter are not found or do not fit.
        """
        head = None if self.mtp_path is None else resolve_head(self.mtp_path)
        checkpoint = Checkpoint.open(path, head)
        if self.adapter_path is not None:
            adapter = resolve_adapter(self.adapter_path, progress)
            checkpoint = checkpoint.with_adapter(adapter)
        return checkpoint
