"""How a turn, a prompt or a download goes, in a few words. Independent of Textual."""

from collections.abc import Callable
from functools import lru_cache

from qwen35_chat.controller import Controller
from qwen35_chat.download import Download
from qwen35_chat.running_turn import RunningTurn
from qwen35_chat.tools.calling import Calling
from qwen35_mlx.session.events import PrefillProgress
from qwen35_mlx.terminal import visible, visible_line

BAR_CELLS = 16
UNLOADED = "The model's memory was given back; the next message loads it again"


def clock_time(seconds: float) -> str:
    """A duration for people: 12 s, 3:05, 1:02:05."""
    whole = max(round(seconds), 0)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def short_duration(seconds: float) -> str:
    """The same for what may take less than a second: 0.3 s."""
    return f"{seconds:.1f} s" if seconds < 9.95 else clock_time(seconds)


def size_of(size: float) -> str:
    """Bytes for people, in decimal units."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if size >= scale:
            return (
                f"{size / scale:.1f} {unit}" if size < 100 * scale else f"{size / scale:.0f} {unit}"
            )
    return f"{size / 1e3:.0f} kB"


@lru_cache(maxsize=32)  # each reply has one
def short_name(model: str) -> str:
    """A model's name without its folder or owner."""
    return visible(model.rstrip("/").rpartition("/")[2])


def bar_cells(share: float, cells: int) -> int:
    """How many cells of a bar are full at this share, from 0 to 1."""
    return round(min(max(share, 0.0), 1.0) * cells)


def bar(share: float) -> str:
    """A bar filled to this share, from 0 to 1."""
    full = bar_cells(share, BAR_CELLS)
    return "━" * full + "╌" * (BAR_CELLS - full)


def turn_parts(turn: RunningTurn, now: float, *, loaded: bool) -> list[str]:
    """What a turn is doing.

    Args:
        now: seconds, on the clock of the turn.
        loaded: whether the model is there.
    """
    if turn.summary:
        return summary_parts(turn)
    if turn.calling is not None:
        return calling_parts(turn.calling)
    match turn.phase:
        case "reading" if turn.progress is not None:
            return prefill_parts(turn.progress, turn.reading_left.seconds)
        case "thinking":
            return ["Thinking", clock_time(now - (turn.thinking_since or 0.0))]
        case "writing":
            return ["Writing"]
        case _:
            return ["Waiting" if loaded else "Waiting for the model"]


def summary_parts(turn: RunningTurn) -> list[str]:
    """How far a summary of the oldest turns is."""
    parts = ["Summing up the oldest turns"]
    if (read := turn.progress) is not None:
        parts.append(f"read {read.done / max(read.total, 1):.0%}")
        if (seconds := turn.reading_left.seconds) is not None:
            parts.append(f"{clock_time(seconds)} to go")
    if turn.written:
        parts.append(f"{turn.written:,} {'token' if turn.written == 1 else 'tokens'} written")
    return parts


def calling_parts(calling: Calling) -> list[str]:
    """What the calls of tools are waiting for."""
    if calling.running is None:
        return ["A tool waits for your answer"]
    tool = visible_line(calling.running.name[:60])
    return [f"Running {tool}", clock_time(calling.seconds)]


def prefill_parts(progress: PrefillProgress, seconds: float | None) -> list[str]:
    """Prefill: a bar, the time left, and the tokens done, cached and left.

    Args:
        seconds: until its end; None if unknown.
    """
    share = progress.done / max(progress.total, 1)
    left = progress.total - progress.done
    parts = [f"Reading {bar(share)} {share:.0%}"]
    if left and seconds is not None:
        parts.append(f"{clock_time(seconds)} to go")
    parts.append(f"{progress.done:,} of {progress.total:,} tokens")
    if progress.cached:
        parts.append(f"{progress.cached:,} from before")
    if left:
        parts.append(f"{left:,} left")
    return parts


def download_parts(download: Download) -> list[str]:
    """How far a download is."""
    name = short_name(download.name)
    if not download.total:
        return [f"Downloading {name}", "starting"]
    parts = [
        f"Downloading {name} {download.fraction:.0%}",
        f"{size_of(download.done)} of {size_of(download.total)}",
    ]
    if (left := download.seconds_left) is not None:
        parts.append(f"{clock_time(left)} to go")
    return parts


def download_outcome(download: Download, key: str) -> tuple[str, bool]:
    """One line about a download that has ended, and whether it failed.

    Args:
        key: resumes it, or uses the model.
    """
    name = short_name(download.name)
    if download.cancelled:
        return f"The download of {name} was stopped; {key} goes on from there", False
    if download.error:
        return visible(download.error), True
    return f"{name} is here now; {key} uses it", False


def model_state(controller: Controller, key: Callable[[str], str]) -> str:
    """What is the matter with the model in use or the next one; "" if nothing is.

    Args:
        key: returns the first key of a command, for people.
    """
    if controller.failed:
        return f"no model, {key('models')} chooses one"
    if controller.loading:
        progress = controller.load_progress
        if progress is None:
            return "loading"
        share = "" if progress.fraction is None else f" {progress.fraction:.0%}"
        return f"loading {short_name(progress.what)}{share}"
    if (download := controller.download) is not None and download.running:
        return f"downloading {short_name(download.name)} {download.fraction:.0%}"
    return ""


def modes(controller: Controller) -> list[tuple[str, str]]:
    """How replies are made, where that is not as usual, each in full and in short."""
    found: list[tuple[str, str]] = []
    if controller.read_only:
        found.append(("read only", "read only"))
    if own := controller.own_prompt:
        found.append((f"prompt: {own}", own))
    settings = controller.settings
    if settings.thinking != "auto":
        found.append((f"thinking {settings.thinking}", f"think {settings.thinking}"))
    if settings.preset != "model":
        found.append((f"preset {settings.preset}", settings.preset))
    if (toolbox := controller.toolbox) is not None:
        number = len(toolbox.offered())
        shown = f"{number} {'tool' if number == 1 else 'tools'}"
        starting = (f"{shown}, more starting", "tools starting")
        found.append(starting if toolbox.starting else (shown, shown))
    return found
