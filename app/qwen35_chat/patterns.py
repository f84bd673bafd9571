"""Regular expressions that start-up need not wait for."""

import re
from collections.abc import Callable
from functools import cache, partial


def pattern(expression: str, flags: int = 0) -> Callable[[], re.Pattern[str]]:
    """A function that returns the regular expression, and compiles it when first called."""
    return cache(partial(re.compile, expression, flags))
