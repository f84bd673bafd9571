"""What came of using a damaged file."""

import traceback
from collections.abc import Callable
from pathlib import Path

from qwen35_mlx.errors import Qwen35Error


def outcome(step: Callable[[Path], None], path: Path) -> str:
    """ "ok", "refused", or what went wrong."""
    try:
        step(path)
    except Qwen35Error as error:
        lines = str(error).splitlines()
        return "refused" if len(lines) == 1 and len(lines[0]) < 2000 else f"long error {lines}"
    except BaseException:
        return traceback.format_exc()
    return "ok"
