"""The lists that cover the chat: commands, messages sent before, settings."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from textual.content import Content
from textual.widgets import OptionList

from qwen35_chat.commands import in_scope, keys_of
from qwen35_chat.completion import ranked, score
from qwen35_chat.disk_calls import Work
from qwen35_chat.handlers.settings import changed_line
from qwen35_chat.keys import shown_keys
from qwen35_chat.screens.picker import Ask, Picker, Row
from qwen35_chat.screens.snippets import one_line
from qwen35_chat.screens.themes import ThemeList
from qwen35_chat.settings import (
    MTP,
    NOTIFICATIONS,
    PRESETS,
    SWITCH,
    THINKING,
    VIEWS,
    Settings,
    display_value,
    setting_names,
)
from qwen35_mlx.text.folding import folded
from qwen35_mlx.user_paths import short_path

HISTORY_SHOWN = 100


class Palette(Picker):
    """Every command, found by letters of its title or its help. A row's id is its name."""

    def __init__(self, remapped: Mapping[str, str]):
        hint = "Enter runs it, Esc goes back"
        super().__init__("Commands", self._make_rows, hint=hint, remapped=remapped)

    def _make_rows(self, words: str) -> Sequence[Row]:
        found = []
        for command in in_scope("chat"):
            title = score(words, command.title)
            other = score(words, command.help)
            if title is not None or (other or 0) >= 99:
                found.append((-(title or 0) if title is not None else 1.0, command))
        if words:
            found.sort(key=lambda pair: pair[0])
        rows = []
        for _, command in found:
            keys = shown_keys(keys_of(command, self._remapped))
            rows.append(
                Row(
                    command.name,
                    Content.assemble((command.title, "bold"), f"  {command.help}"),
                    Content.styled(keys or f"/{command.slash}", "dim"),
                )
            )
        return rows or [Row("", Content("No command has these letters"))]


class HistoryList(Picker):
    """The messages sent before, newest first. A row's id is its place in `texts`."""

    def __init__(self, texts: Sequence[str]):
        super().__init__(
            "Earlier messages",
            self._make_rows,
            hint="Enter takes it to the composer, Esc goes back",
        )
        self._texts = texts

    def _make_rows(self, words: str) -> Sequence[Row]:
        wanted = folded(words).split()
        rows: list[Row] = []
        for at in range(len(self._texts) - 1, -1, -1):
            text = self._texts[at]
            spelled = folded(text)
            if all(word in spelled for word in wanted):
                rows.append(Row(str(at), Content(one_line(text)[:300])))
            if len(rows) == HISTORY_SHOWN:
                break
        return rows or [Row("", Content("Nothing yet"))]


CHOICES: Mapping[str, Sequence[str]] = {
    "thinking": THINKING,
    "preset": tuple(PRESETS),
    "repetition_guard": SWITCH,
    "mtp": MTP,
    "thinking_view": VIEWS,
    "copy_on_select": SWITCH,
    "notification": NOTIFICATIONS,
    "shell_commands": SWITCH,
    "vim": SWITCH,
    "auto_compact": SWITCH,
}
HELP: Mapping[str, str] = {
    "model": "loaded at the start",
    "system": "what the model is told before everything else",
    "thinking": "before the answer: auto leaves it to the model",
    "preset": "sampling, as the model's card advises",
    "max_tokens": "longest reply; -1 for whatever the context leaves",
    "context": "tokens that the list of models reckons memory for",
    "mtp": "tokens guessed, then verified in one pass, from the next start on",
    "theme": "auto is dark or light as the terminal is; ansi takes its colours",
    "thinking_view": "how the thinking of replies is shown",
    "vim": "the keys of vim where you write",
    "auto_compact": "sums up the oldest turns before a message that the context has no room for",
    "copy_on_select": "text is copied as soon as the mouse has selected it",
    "notification": "of a long reply's end, in another window: by the terminal, or its bell",
    "shell_commands": "!command, typed in the composer, runs it and shows its output to be added",
    "thinking_budget": "tokens of thinking, then the model is made to answer; -1 for no limit",
    "repetition_guard": "ends a reply that repeats itself without end",
    "folders": "where models are looked for, separated by commas",
    "tools_folder": "whose text files the model may ask to read, from the next start on",
}


class SettingsList(Picker):
    """All settings. Enter goes to the next value of one, or asks for a value.

    Args:
        settings: the present ones.
        file: where they are stored; None for nowhere.
        change: stores a new value, given the name and what the user wrote.
        template_arguments: that the model's template reads.
    """

    def __init__(
        self,
        settings: Callable[[], Settings],
        file: Path | None,
        change: Callable[[str, str], Work],
        template_arguments: Sequence[str] = (),
    ):
        place = f", kept in {short_path(file)}" if file is not None else ""
        hint = "Enter changes it, Esc goes back"
        super().__init__(f"Settings{place}", self._make_rows, hint=hint)
        self._settings = settings
        self._change = change
        self._template_arguments = template_arguments
        self._explained = ""  # the setting that the message line explains

    def _make_rows(self, words: str) -> Sequence[Row]:
        now = self._settings()
        names = setting_names(now, self._template_arguments)
        rows: list[Row] = []
        for name in ranked(words, names, limit=len(names)):
            value = display_value(now, name)
            shown = one_line(value) if value else Content.styled("none", "dim")
            rows.append(Row(name, Content.assemble((f"{name:<28} ", "bold"), shown)))
        if not words:
            rows.append(Row("", Content("More in the file: [keys], [template_arguments]")))
        return rows

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if event.option_id is not None and event.option_id != self._explained:
            self._explained = event.option_id
            self.show_message(_help(self._settings(), event.option_id))

    def chosen(self, row: str) -> None:
        if row == "theme":
            self.app.push_screen(ThemeList(self._settings()), self._theme_chosen)
            return
        if row in CHOICES:
            values = CHOICES[row]
            self.perform(self._set_next(row, values))
            return

        def given(text: str | None) -> None:
            if text is not None:
                self.perform(self._set(row, text))

        hint = "Enter keeps it, Esc goes back; empty for the default"
        self.app.push_screen(Ask(row, display_value(self._settings(), row), hint), given)

    def _theme_chosen(self, name: str | None) -> None:
        if name is not None:
            self.perform(self._set("theme", name))

    async def _set_next(self, name: str, values: Sequence[str]) -> None:
        now = values.index(display_value(self._settings(), name))
        await self._set(name, values[(now + 1) % len(values)])

    async def _set(self, name: str, text: str) -> None:
        await self._change(name, text)
        self.show_message(changed_line(self._settings(), name))
        if self.is_attached:
            self.reload(name)


def _help(settings: Settings, name: str) -> str:
    table, _, key = name.rpartition(".")
    if not table:
        return HELP[name]
    if table == "template_arguments":
        return "a variable of the model's chat template; empty leaves it out"
    if key in settings.sampling:
        return "your own, over the preset's; empty for the preset's"
    return "of the preset" if key in PRESETS[settings.preset] else "the model's own"
