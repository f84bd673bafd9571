"""Claims on titles, by windows that take turns in writing to one conversation."""

from hashlib import blake2b

from qwen35_mlx.library.locks import NamedLocks
from qwen35_mlx.library.rows import replace_surrogates

_CLAIMED = "claimed"


class TitleClaims:
    """The titles that a window has claimed, and those that it is next to claim.

    A title has one place in line. Whoever finds it claimed takes that place if it is free, and
    nobody claims a title while another window is next. So a window that claims a title again and
    again, with hardly a moment between, cannot keep it from one that tries now and then.

    Args:
        locks: of the window.
    """

    def __init__(self, locks: NamedLocks):
        self._locks = locks

    def claim(self, title: str) -> bool:
        """Reserve a title, so that only this window makes a conversation of it.

        Returns False if another window has it or is next. This window may then be next: it is to
        try again soon, or to call `withdraw`. A claim and a place end with the process, too.
        """
        claim, place = _lock_names(title)
        if not self._locks.acquire(place, _CLAIMED) or not self._locks.acquire(claim, _CLAIMED):
            return False
        self._locks.release(place, _CLAIMED)
        return True

    def release(self, title: str) -> None:
        """Give up the claim on a title."""
        self._locks.release(_lock_names(title)[0], _CLAIMED)

    def withdraw(self, title: str) -> None:
        """Give up being next, if this window is."""
        self._locks.release(_lock_names(title)[1], _CLAIMED)


def _lock_names(title: str) -> tuple[str, str]:
    """The names of the locks for a claim and for a place, from a title of any length."""
    digest = blake2b(replace_surrogates(title).encode(), digest_size=16).hexdigest()
    return f"title-{digest}", f"next-{digest}"
