"""The list of personas."""

from collections.abc import Sequence
from pathlib import Path

from textual.content import Content

from qwen35_chat.completion import score
from qwen35_chat.drawing.line_breaks import broken
from qwen35_chat.personas import EXAMPLE, NO_PERSONA, Persona, Personas
from qwen35_chat.screens.picker import Picker, Row
from qwen35_mlx.terminal import visible, visible_line
from qwen35_mlx.user_paths import short_path

PREVIEW = 300  # characters
PATH_CELLS = 66  # of a row; a longer path goes on in the next


class PersonaList(Picker):
    """Its result is the name of a persona, or `NO_PERSONA`.

    Args:
        folder: where their files are.
        now: the name of the one that holds; "" for none.
    """

    def __init__(self, folder: Path, personas: Personas, now: str):
        hint = "Enter uses it in this conversation, Esc goes back"
        super().__init__(f"Prompts, kept in {short_path(folder)}", self._make_rows, hint=hint)
        self._folder = folder
        self._personas = personas
        self._now = now

    def _make_rows(self, words: str) -> Sequence[Row]:
        usable = self._personas.usable
        rows = [self._row(p) for p in usable if score(words, p.name) is not None]
        if self._now and not words:
            rows.append(
                Row(
                    NO_PERSONA,
                    Content.assemble(
                        "  ", ("None", "bold"), ("  the system prompt of the settings", "dim")
                    ),
                )
            )
        rows += [
            Row("", Content.styled(f"  {visible(problem)}", "$text-error"))
            for problem in self._personas.problems.values()
        ]
        if usable:
            return rows or [Row("", Content("No prompt is called so"))]
        return [*rows, *_how_to_begin(self._folder)]

    def _row(self, persona: Persona) -> Row:
        here = "• " if persona.name == self._now else "  "
        preview = " ".join(visible(persona.system[:PREVIEW]).split())
        label = Content.assemble(here, (persona.name, "bold"), (f"  {preview}", "dim"))
        given = [f"{name} {value}" for name, value in persona.settings.items()]
        given += [visible_line(persona.model)] if persona.model else []
        return Row(persona.name, label, Content.styled(", ".join(given), "dim"), least=24)


def _how_to_begin(folder: Path) -> list[Row]:
    """What to do while there is no persona."""
    lines = [
        "No prompt yet. A prompt is a Markdown file in",
        *(f"  {part}" for part in broken(short_path(folder), PATH_CELLS)),
        "such as reviewer.md:",
        "",
        *(f"  {line}" for line in EXAMPLE.split("\n")),
        "",
        "model and preset may stand beside name and thinking, and all may be left out.",
    ]
    return [Row("", Content(line)) for line in lines]
