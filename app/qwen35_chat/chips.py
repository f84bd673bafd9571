"""Long pastes, which the composer shows as short names, and how drafts keep them."""

import re

LONG_PASTE = 12  # lines; a longer paste becomes a chip
LONG_PASTE_CHARACTERS = 2_000
LONG_TEXT, LONG_TEXT_CHARACTERS = 1_000, 20_000  # more takes too long to be edited on the screen
_CHIP = re.compile(r"\[(paste|output) \d+: ([^\]\n]{1,40})\]")
# A paste in a draft, between characters that stand in no text: its kind, its size, and itself.
_STORED = re.compile(
    "\ufdd0(paste|output)\ufdd1([^\ufdd0-\ufdd2\n]{1,40})\ufdd1([^\ufdd0-\ufdd2]*)\ufdd2"
)
_MARKS = re.compile("[\ufdd0-\ufdd2]")


class Chips:
    """Long pastes and outputs of commands, each of which the composer shows as a short name."""

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}

    def chip(
        self, text: str, longest: int = LONG_PASTE, characters: int = LONG_PASTE_CHARACTERS
    ) -> str | None:
        """A name for `text`; None if it is short enough to be shown itself.

        Args:
            longest, characters: the lines and the characters of the longest that is.
        """
        lines = text.removesuffix("\n").count("\n") + 1
        if lines <= longest and len(text) <= characters:
            return None
        size = f"{lines} lines" if lines > longest else f"{len(text):,} characters"
        return self._named("paste", size, self.expanded(text))

    def output(self, text: str) -> str:
        """A name for the output of a command."""
        lines = text.count("\n") - 1  # without the fence
        return self._named("output", f"{lines} lines", text)

    def _named(self, kind: str, size: str, text: str) -> str:
        name = f"[{kind} {len(self._texts) + 1}: {size}]"
        self._texts[name] = text
        return name

    def collapsed(self, text: str) -> str:
        """`text` with its chip in place of each paste: the inverse of `expanded`."""
        for name, whole in sorted(self._texts.items(), key=lambda chip: -len(chip[1])):
            text = text.replace(whole, name)
        return text

    def expanded(self, text: str) -> str:
        """`text` with the paste in place of each chip."""
        return _CHIP.sub(lambda match: self._texts.get(match.group(), match.group()), text)

    def stored(self, text: str) -> str:
        """`text` for a draft: with the pastes in full, from which `restored` makes chips again."""

        def marked(chip: re.Match[str]) -> str:
            whole = self._texts.get(chip.group())
            if whole is None:
                return chip.group()
            return f"\ufdd0{chip[1]}\ufdd1{chip[2]}\ufdd1{_MARKS.sub('', whole)}\ufdd2"

        return _CHIP.sub(marked, _MARKS.sub("", text))

    def restored(self, draft: str) -> str:
        """The text of a draft, in which each paste is a chip of its own."""
        text = _STORED.sub(lambda found: self._named(found[1], found[2], found[3]), draft)
        return _MARKS.sub("", text)


def draft_in_full(draft: str) -> str:
    """The text of a draft, with its pastes in full."""
    return _MARKS.sub("", _STORED.sub(lambda found: found[3], draft))
