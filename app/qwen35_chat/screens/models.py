"""The list of models: what is here, what fits, and downloads."""

from collections.abc import Callable, Sequence

from textual.content import Content

from qwen35_chat.completion import score
from qwen35_chat.desk import Desk
from qwen35_chat.download import Download
from qwen35_chat.models import PUBLISHED, Known, local_models, machine_memory
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
        desk: Desk,
        *,
        memory: int | None = None,
        start: Callable[[str], Download] = Download,
    ):
        super().__init__(
            "Models",
            self._found,
            placeholder="Search, or write a folder or org/repo",
            hint="Enter uses or downloads it, Esc goes back",
            remapped=desk.settings.keys,
        )
        self._desk = desk
        self._memory = machine_memory() if memory is None else memory
        self._start = start
        self._local: list[Known] = []

    @property
    def _download(self) -> Download | None:
        return self._desk.download

    def on_mount(self) -> None:
        self._local = local_models(self._desk.settings.folders)
        super().on_mount()
        self.set_interval(1 / LOOKS_PER_SECOND, self._look)

    def _found(self, words: str) -> Sequence[Row]:
        tokens = self._desk.settings.context
        here = {known.name for known in self._local}
        rows = [self._row(known) for known in self._local if _wanted(words, known)]
        if rows:
            rows.insert(0, _heading("On this machine"))
        others = [k for k in PUBLISHED if k.name not in here and _wanted(words, k)]
        if others:
            memory = size_of(self._memory)
            rows.append(_heading(f"To download, for {memory} of memory and {tokens:,} tokens"))
            fitting = [known for known in others if known.fit(tokens, self._memory) == "fits"]
            best = max(fitting, key=lambda known: known.weights, default=None)
            rows += [self._row(known, advised=known is best) for known in others]
        if "/" in words.strip() and not any(row.id == words.strip() for row in rows):
            rows.append(Row(words.strip(), Content(f"Use {visible(words.strip())}")))
        return rows or [_heading("No model is called so; write a folder, or org/repo")]

    def _row(self, known: Known, *, advised: bool = False) -> Row:
        tokens = self._desk.settings.context
        fit = known.fit(tokens, self._memory)
        here = "• " if known.name == self._desk.model and self._desk.loaded else "  "
        parts: list[Content | str | tuple[str, str]] = [
            here,
            (f"{visible(known.title or known.name):<34} ", "bold"),
            f"{size_of(known.weights):>8}  ",
            (f"{fit:<10}", FITS[fit]),
            (f"needs {size_of(known.needs(tokens))}", "dim"),
        ]
        if advised:
            parts.append(("  advised", "$text-accent"))
        return Row(known.name, Content.assemble(*parts))

    def chosen(self, row: str) -> None:
        if any(known.name == row for known in self._local) or row not in {
            known.name for known in PUBLISHED
        }:
            self.dismiss(row)
            return
        if self._download is not None and self._download.running:
            self.say(f"{self._download.name} is being downloaded: stop it first", error=True)
            return
        self._desk.download = self._start(row)
        self._look()

    def _look(self) -> None:
        """Show how the download goes."""
        download = self._download
        if download is None:
            return
        if download.running:
            left = download.seconds_left
            to_go = "" if left is None else f", {clock_time(left)} to go"
            amount = f"{size_of(download.done)} of {size_of(download.total)}"
            known = f"{download.share:.0%}, {amount}{to_go}" if download.total else "starting"
            self.say(f"Downloading {visible(download.name)}: {known}")
            return
        self._desk.download = None
        if download.error:
            self.say(visible(download.error), error=True)
        elif download.cancelled:
            self.say("Stopped; Enter goes on with what is there")
        else:
            self._local = local_models(self._desk.settings.folders)
            self.reload(download.name)
            self.say("Downloaded; Enter uses it")

    def cancel_download(self) -> None:
        if self._download is None:
            raise Qwen35Error("nothing is being downloaded")
        self._download.cancel()

    def unload(self) -> None:
        self._desk.unload()
        self.say("The model's memory was given back; the next message loads it again")


def _heading(text: str) -> Row:
    return Row("", Content.styled(text, "dim"))


def _wanted(words: str, known: Known) -> bool:
    return score(words.replace(" ", ""), f"{known.name} {known.title}".replace(" ", "")) is not None
