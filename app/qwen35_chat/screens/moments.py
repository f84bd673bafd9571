"""When something was, for people."""

import time
from datetime import date

DAY = 86_400.0


def when(then: float, now: float) -> str:
    """How long ago a moment was, in a word or two; the date after 30 days.

    And the date of one that has not come yet, by a clock that was wrong.
    """
    seconds = now - then
    if seconds < -DAY:
        return time.strftime("%Y-%m-%d", time.localtime(then))
    if seconds < 60:
        return "now"
    sizes = ((60, "min", 3600), (3600, "h", DAY), (DAY, "d", 30 * DAY))
    for size, unit, limit in sizes:
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return time.strftime("%Y-%m-%d", time.localtime(then))


def period_of(then: float, now: float) -> str:
    """The heading for a moment in a list, newest first; "" for one that has not come yet."""
    if then - now > DAY:
        return ""
    days = date.fromtimestamp(now).toordinal() - date.fromtimestamp(then).toordinal()
    named = ((0, "Today"), (1, "Yesterday"), (6, "The last seven days"), (29, "The last 30 days"))
    return next((name for most, name in named if days <= most), "Earlier")
