"""What Git ignores, as the files `.gitignore` say."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from qwen35_chat.file_refused import FileRefusedError
from qwen35_chat.readable_files import read_text_file

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

FILE = ".gitignore"


class GitIgnored:
    """The rules that hold in a folder; those of deeper folders go first. All paths are absolute."""

    def __init__(self, rules: "Sequence[tuple[Path, GitIgnoreSpec]]" = ()):
        self._rules = rules

    @classmethod
    def around(cls, folder: Path) -> Self:
        """The rules that hold for a folder and what is in it.

        A folder that the rules of those above it ignore has its own alone: it was named.
        """
        above: list[Path] = []
        for parent in (folder, *folder.parents):
            above.insert(0, parent)
            if (parent / ".git").exists():
                break
        else:
            above = [folder]
        outer = cls()
        for parent in above[:-1]:
            outer = outer.within(parent)
        return cls().within(folder) if outer.ignores(folder, True) else outer.within(folder)

    def within(self, folder: Path) -> Self:
        """The rules in a folder below."""
        from pathspec import GitIgnoreSpec  # takes some ms, which few messages need

        try:
            lines = read_text_file(folder / FILE).text.splitlines()
            spec = GitIgnoreSpec.from_lines(lines)
        except (FileRefusedError, ValueError):  # the second for a pattern that Git has no use for
            return self
        return type(self)([*self._rules, (folder, spec)])

    def ignores(self, path: Path, folder: bool) -> bool:
        """Whether a file, or a folder, is ignored."""
        for root, spec in reversed(self._rules):
            relative = path.relative_to(root).as_posix() + "/" * folder
            if (found := spec.check_file(relative).include) is not None:
                return found
        return False
