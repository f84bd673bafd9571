"""Pictures of the terminal, as SVG files that are the same whenever they are drawn."""

import re
from pathlib import Path

_IDENTIFIER = re.compile(r"terminal-\d+")
_FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def write_picture(svg: str, file: Path) -> None:
    """Store a screen that Textual has exported.

    Pages that embed it do not load fonts from other servers. The checksum that is part of every
    name in it is left out, since it depends on the numbers of clickable parts.
    """
    svg = _FONT_FACE.sub("", _IDENTIFIER.sub("terminal", svg))
    file.parent.mkdir(exist_ok=True)
    file.write_text(svg, encoding="utf-8")
