"""What a command of vim acts on: where a motion goes, and what an operator takes."""

from dataclasses import dataclass, replace

from qwen35_chat.vim.motions import (
    Target,
    Units,
    down,
    find,
    first_sign,
    line_end,
    line_start,
    run_end,
    word_around,
    word_back,
    word_end,
    word_forward,
)

_BACK = {"f": "F", "F": "f", "t": "T", "T": "t"}


@dataclass(frozen=True, slots=True)
class Taken:
    """What an operator takes: units from `start` to before `end`.

    Attributes:
        cursor: where copying leaves the cursor.
        lines: whole lines, without their last line end.
    """

    start: int
    end: int
    cursor: int
    lines: bool = False


@dataclass(frozen=True, slots=True)
class Find:
    """The last search in a line, for `;` and `,`."""

    how: str
    sign: str

    @property
    def back(self) -> "Find":
        return Find(_BACK[self.how], self.sign)


def target(
    units: Units, at: int, motion: str, count: int | None, sought: Find | None
) -> Target | None:
    """Where a motion goes from `at`; None where there is no such place.

    Args:
        count: None if none was typed.
        sought: what f, F, t, T, `;` and `,` look for.
    """
    times = count or 1
    match motion:
        case "h":
            return Target(max(line_start(units, at), at - times))
        case "l":
            return Target(min(line_end(units, at), at + times))
        case "0":
            return Target(line_start(units, at))
        case "^":
            return Target(first_sign(units, at))
        case "$":
            line = at if times == 1 else down(units, at, times - 1)
            if line is None:
                return None
            end = line_end(units, line)
            return Target(max(end - 1, line_start(units, line)), end > line_start(units, line))
        case "j" | "k":
            place = down(units, at, times if motion == "j" else -times)
            return None if place is None else Target(place, lines=True)
        case "gg" | "G":
            last = units[:].count("\n")
            line = last if motion == "G" and count is None else min(times - 1, last)
            place = down(units, 0, line) if line else 0
            return Target(first_sign(units, place or 0), lines=True)
        case "w" | "b" | "e":
            step = {"w": word_forward, "b": word_back, "e": word_end}[motion]
            place = at
            for _ in range(min(times, len(units))):
                place = step(units, place)
            if motion == "b" and place == at:
                return None
            return Target(place, motion == "e" and place < len(units))
    return _found(units, at, motion, times, sought)


def _found(units: Units, at: int, motion: str, times: int, sought: Find | None) -> Target | None:
    if sought is None:
        return None
    again = sought.back if motion == "," else sought
    # `;` after t goes on from behind the sign that it stands before.
    step = {"t": 1, "T": -1}.get(again.how, 0) if motion in ";," else 0
    start = at + step
    if not 0 <= start < len(units):
        return None
    place = find(units, start, again.how, again.sign, times)
    return None if place is None else Target(place, inclusive=again.how in "ft")


def taken(
    units: Units, at: int, operator: str, motion: str, count: int | None, sought: Find | None
) -> Taken | None:
    """What an operator takes with a motion, or with itself for lines; None for nothing."""
    times = count or 1
    if motion == operator:
        last = at if times == 1 else down(units, at, times - 1)
        return None if last is None else replace(lines_between(units, at, last), cursor=at)
    if motion in ("iw", "aw"):
        start, end = word_around(units, at, spaces=motion == "aw")
        for _ in range(times - 1):
            if end < line_end(units, at):
                _, end = word_around(units, end, spaces=motion == "aw")
        return Taken(start, end, start)
    on_word = at < len(units) and not units[at].isspace()
    if motion == "w" and operator == "c" and on_word:
        place = run_end(units, at)
        for _ in range(times - 1):
            place = word_end(units, place)
        return Taken(at, place + 1, at)
    goal = target(units, at, motion, count, sought)
    if goal is None:
        return None
    if goal.lines:
        return lines_between(units, at, goal.at)
    start, end = sorted((at, goal.at))
    if motion == "w":
        end = _within_line(units, at, end, times)
    if goal.inclusive:
        end += 1
    elif motion != "$" and end == line_start(units, end) > line_start(units, start):
        # It ends before the first sign of a line: at the end of the one before, or with that.
        end -= 1
        if start <= first_sign(units, start):
            return lines_between(units, start, end)
    if operator == "d" and _fills_lines(units, start, end):
        return lines_between(units, start, end)
    # An empty line can be changed, too.
    nothing = end == start and operator != "c"
    return None if nothing else Taken(start, end, start)


def _fills_lines(units: Units, start: int, end: int) -> bool:
    """Whether it is several lines, and there are at most spaces beside it in the outer ones."""
    behind = units[end : line_end(units, end)]
    return (
        "\n" in units[start:end]
        and start <= first_sign(units, start)
        and all(unit.isspace() for unit in behind)
    )


def _within_line(units: Units, at: int, end: int, times: int) -> int:
    """The end of what w takes: that of the line of the last word, if w leaves that line."""
    for _ in range(min(times, len(units)) - 1):
        at = word_forward(units, at)
    behind = line_end(units, at)
    return behind if at < behind < end else end


def lines_between(units: Units, one: int, other: int) -> Taken:
    """The whole lines from one place to another, in any order."""
    first, last = sorted((one, other))
    return Taken(line_start(units, first), line_end(units, last), first, lines=True)
