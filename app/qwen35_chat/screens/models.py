"""The list of models: what is here, what fits, and downloads."""

from collections.abc import Callable, Sequence

from textual.content import Content

from qwen35_chat.completion import score
from qwen35_chat.controller import Controller
from qwen35_chat.download import Download
from qwen35_chat.models import PUBLISHED, MemoryFit, ModelEntry, local_models, machine_memory
from qwen35_chat.plain import visible
from qwen35_chat.screens.picker import Picker, Row
from qwen35_chat.widgets.status import clock_time, size_of
from qwen35_mlx.errors import Qwen35Error

LOOKS_PER_SECOND = 4
FITS = {"fits": "$text-success", "tight": "$text-warning", "too large": "$text-error"}


class Models(Picker):
    """Gives the name of the model to use: one that is here. Others are downloaded first."""

    SCOPE = "models"

    def __init__(
        self,
        controller: Controller,
        *,
        memory: int | None = None,
        start: Callable[[str], Download] = Download,
    ):
        memory = machine_memory() if memory is None else memory
        tokens = f"{controller.settings.context:,} tokens of context"
        super().__init__(
            f"Models for {memory / 2**30:.0f} GB of memory and {tokens}",
            self._found,
            placeholder="Search, or write a folder or org/repo",
            hint="Enter uses or downloads it, Esc goes back",
            remapped=controller.settings.keys,
        )
        self._controller = controller
        self._memory = memory
        self._start = start
        self._local: list[ModelEntry] = []

    @property
    def _download(self) -> Download | None:
        return self._controller.download

    def on_mount(self) -> None:
        self._local = local_models(self._controller.settings.folders)
        super().on_mount()
        self._look()
        self.set_interval(1 / LOOKS_PER_SECOND, self._look)

    def _found(self, words: str) -> Sequence[Row]:
        here = {known.name for known in self._local}
        rows = [self._row(known) for known in self._local if _wanted(words, known)]
        if rows:
            rows.insert(0, _heading("On this machine", "size    needs           "))
        others = [k for k in PUBLISHED if k.name not in here and _wanted(words, k)]
        if others:
            rows.append(_heading("To download", "" if rows else "size    needs           "))
            fitting = [k for k in others if self._fit(k) == "fits"]
            best = max(fitting, key=lambda known: known.weight_bytes, default=None)
            rows += [self._row(known, advised=known is best) for known in others]
        if "/" in words.strip() and not any(row.id == words.strip() for row in rows):
            rows.append(Row(words.strip(), Content(f"Use {visible(words.strip())}")))
        return rows or [_heading("No model is called so; write a folder, or org/repo")]

    def _fit(self, known: ModelEntry) -> MemoryFit:
        return known.memory_fit(self._controller.settings.context, self._memory)

    def _row(self, known: ModelEntry, *, advised: bool = False) -> Row:
        fit = self._fit(known)
        here = "• " if known.name == self._controller.model and self._controller.loaded else "  "
        owner, _, short = known.name.rpartition("/")
        return Row(
            known.name,
            Content.assemble(
                here,
                (visible(known.title or short), "bold"),
                ("  advised", "$text-accent") if advised else (f"  {visible(owner)}", "dim"),
            ),
            Content.assemble(
                f"{size_of(known.weight_bytes):>8} ",
                f"{size_of(known.memory_needed(self._controller.settings.context)):>8}  ",
                # Upon the mark's own colour, a terminal's might not be read.
                (f"{fit:<9}", "" if self.app.native_ansi_color else FITS[fit]),
            ),
        )

    def chosen(self, row: str) -> None:
        if any(known.name == row for known in self._local) or row not in {
            known.name for known in PUBLISHED
        }:
            self.dismiss(row)
            return
        if self._download is not None and self._download.running:
            self.say(f"{self._download.name} is being downloaded: stop it first", error=True)
            return
        self._controller.download = self._start(row)
        self._look()

    def _look(self) -> None:
        """Show how the download goes."""
        if self._download is not None and self._download.running:
            self.say(" · ".join(download_parts(self._download)))
        elif download := self._controller.end_of_download():
            text, error = ended(download, "Enter")
            if not error and not download.cancelled:
                self._local = local_models(self._controller.settings.folders)
                self.reload(download.name)
            self.say(text, error=error)

    def cancel_download(self) -> None:
        if self._download is None:
            raise Qwen35Error("nothing is being downloaded")
        self._download.cancel()

    def unload(self) -> None:
        self._controller.unload()
        self.say("The model's memory was given back; the next message loads it again")


def download_parts(download: Download) -> list[str]:
    """How a download goes."""
    name = visible(download.name.rpartition("/")[2])
    if not download.total:
        return [f"Downloading {name}", "starting"]
    parts = [
        f"Downloading {name} {download.fraction:.0%}",
        f"{size_of(download.done)} of {size_of(download.total)}",
    ]
    if (left := download.seconds_left) is not None:
        parts.append(f"{clock_time(left)} to go")
    return parts


def ended(download: Download, key: str) -> tuple[str, bool]:
    """What to say of a download that has ended, and whether it failed.

    Args:
        key: what goes on with it, or uses the model.
    """
    name = visible(download.name.rpartition("/")[2])
    if download.cancelled:
        return f"The download of {name} was stopped; {key} goes on from there", False
    if download.error:
        return visible(download.error), True
    return f"{name} is here now; {key} uses it", False


def _heading(text: str, right: str = "") -> Row:
    return Row("", Content(text), Content(right))


def _wanted(words: str, known: ModelEntry) -> bool:
    return score(words.replace(" ", ""), f"{known.name} {known.title}".replace(" ", "")) is not None
