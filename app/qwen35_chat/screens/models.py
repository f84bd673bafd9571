"""The list of models: what is here, what fits, and downloads."""

from collections import Counter
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from textual.content import Content

from qwen35_chat.completion import score
from qwen35_chat.controller import Controller
from qwen35_chat.download import Download
from qwen35_chat.models import (
    PUBLISHED,
    LocalModels,
    MemoryFit,
    ModelEntry,
    local_models,
    memory_of,
)
from qwen35_chat.progress import UNLOADED, download_outcome, download_parts, size_of
from qwen35_chat.screens.picker import Picker, Row
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.terminal import visible

POLLS_PER_SECOND = 4
COLUMNS = f"{'size':>8} {'needs':>8} {'KL':>5}{'':11}"
KL = "KL: distance from the original, unquantised model; 0 is equal"
FITS = {"fits": "$text-success", "tight": "$text-warning", "too large": "$text-error"}


class ModelList(Picker):
    """Its result is the name of a model to use that is on this machine.

    Choosing another one downloads it.

    Args:
        memory: bytes; None for what this machine has.
        start: starts a download.
    """

    SCOPE = "models"

    def __init__(
        self,
        controller: Controller,
        *,
        memory: int | None = None,
        start: Callable[[str], Download] = Download,
    ):
        memory, machine = memory_of(controller.processes, memory)
        tokens = f"{controller.settings.context:,} tokens of context"
        super().__init__(
            f"Models for {machine} and {tokens}",
            self._make_rows,
            placeholder="Search, or write a folder or org/repo",
            hint="Enter uses or downloads it, Esc goes back",
            remapped=controller.settings.keys,
        )
        self._controller = controller
        self._memory = memory
        self._start = start
        self._local: LocalModels | None = None  # not looked for yet
        self._asked = ""  # the model that is downloaded if it is chosen again

    @property
    def _download(self) -> Download | None:
        return self._controller.download

    def on_mount(self) -> None:
        super().on_mount()
        self.show_message(KL)
        self._show_download()
        self.set_interval(1 / POLLS_PER_SECOND, self._show_download)

    async def _make_rows(self, words: str) -> Sequence[Row]:
        if self._local is None:
            folders = self._controller.settings.folders
            self._local = await self._controller.calls.run("models", local_models, folders)
        usable = self._local.usable
        here = {known.name for known in usable}
        rows = [self._row(known) for known in usable if _matches(words, known.name, known.title)]
        if rows:
            rows.insert(0, _heading("On this machine", COLUMNS))
        others = [k for k in PUBLISHED if k.name not in here and _matches(words, k.name, k.title)]
        if others:
            rows += [_heading("")] if rows else []
            owner = _usual_owner(others)
            heading = "To download" + (f" from {owner}" if owner else "")
            rows.append(_heading(heading, "" if rows else COLUMNS))
            fitting = [k for k in others if self._fit(k) == "fits"]
            best = max(fitting, key=lambda known: known.weight_bytes, default=None)
            rows += [self._row(known, owner, advised=known is best) for known in others]
        damaged = [d for d in self._local.left_out if _matches(words, d.name)]
        if damaged:
            rows += [_heading(""), _heading("Damaged")]
            rows += [_heading(visible(f"  {line}")) for d in damaged for line in (d.name, d.reason)]
        if "/" in words.strip() and not any(row.id == words.strip() for row in rows):
            rows.append(Row(words.strip(), Content(f"Use {visible(words.strip())}")))
        return rows or [_heading("No model is called so; write a folder, or org/repo")]

    def _show_rows(self, rows: Sequence[Row], keep: str | None) -> None:
        """The model in use is marked at first."""
        super()._show_rows(rows, keep or self._controller.model)

    def _fit(self, known: ModelEntry) -> MemoryFit:
        context, processes = self._controller.settings.context, self._controller.processes
        return known.memory_fit(context, self._memory, processes)

    def _row(self, known: ModelEntry, usual_owner: str = "", *, advised: bool = False) -> Row:
        fit = self._fit(known)
        context = self._controller.settings.context
        here = "• " if known.name == self._controller.model and self._controller.loaded else "  "
        owner, _, short = known.name.removesuffix(".gguf").rpartition("/")
        name = visible(known.title or short)
        # A colour of the terminal might not be readable on that of the mark.
        shown_fit = (f"{fit:<9}", "" if self.app.native_ansi_color else FITS[fit])
        where = " · ".join(filter(None, (known.program, visible(owner))))
        where = "" if where == usual_owner else where
        return Row(
            known.name,
            Content.assemble(
                here,
                (name, "bold"),
                ("  advised", "$text-accent") if advised else (f"  {where}", "dim"),
            ),
            Content.assemble(
                f"{size_of(known.size):>8} ",
                f"{size_of(known.memory_needed(context, self._controller.processes)):>8} ",
                f"{'' if known.kl is None else f'{known.kl:.3f}':>5}  ",
                shown_fit,
            ),
            Content.assemble(shown_fit),
            len(here) + cell_len(name),
        )

    def chosen(self, row: str) -> None:
        here = {known.name for known in self._local.usable} if self._local else set[str]()
        published = {known.name: known for known in PUBLISHED}
        if row in here or row not in published:
            self.dismiss(row)
        elif row != self._asked:
            self._asked = row
            size = size_of(published[row].size)
            self.show_message(f"Download {size} to the cache of Hugging Face? Enter again does")
        else:
            self.perform(self._start_download(row))

    async def _start_download(self, name: str) -> None:
        if self._download is not None and self._download.running:
            raise Qwen35Error(f"{self._download.name} is being downloaded: stop it first")
        self._controller.download = await self._controller.calls.run("models", self._start, name)
        if self.is_attached:
            self._show_download()

    def _show_download(self) -> None:
        """Show how far the download is, or how it ended."""
        if self._download is not None and self._download.running:
            self.show_message(" · ".join(download_parts(self._download)))
        elif download := self._controller.take_ended_download():
            text, error = download_outcome(download, "Enter")
            if not error and not download.cancelled:
                self._local = None
                self.reload(download.name)
            self.show_message(text, error=error)

    def cancel_download(self) -> None:
        if self._download is not None:
            self._download.cancel()
        elif self.message == KL:  # otherwise it says how the last one ended
            raise Qwen35Error("nothing is being downloaded")

    def unload(self) -> None:
        self._controller.unload()
        self.show_message(UNLOADED)


def _heading(text: str, right: str = "") -> Row:
    return Row("", Content(text), Content(right), least=len(text))


def _usual_owner(models: Sequence[ModelEntry]) -> str:
    """Who most of them are from, which a heading can say once; "" if they are from all over."""
    owners = Counter(known.name.rpartition("/")[0] for known in models)
    owner, count = owners.most_common(1)[0]
    return owner if count > 1 else ""


def _matches(words: str, name: str, title: str = "") -> bool:
    return score(words.replace(" ", ""), f"{name} {title}".replace(" ", "")) is not None
