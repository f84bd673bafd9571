"""When something was, for people."""

import time
from datetime import date


def when(then: float, now: float) -> str:
    """How long ago a moment was, in a word or two; the date after 30 days."""
    seconds = max(now - then, 0)
    if seconds < 60:
        return "now"
    sizes = ((60, "min", 3600), (3600, "h", 86400), (86400, "d", 30 * 86400))
    for size, unit, limit in sizes:
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return time.strftime("%Y-%m-%d", time.localtime(then))


def period_of(then: float, now: float) -> str:
    """The heading for a moment in a list, newest first."""
    days = date.fromtimestamp(now).toordinal() - date.fromtimestamp(then).toordinal()
    named = ((0, "Today"), (1, "Yesterday"), (6, "The last seven days"), (29, "The last 30 days"))
    return next((name for most, name in named if days <= most), "Earlier")
