"""The list of completions above the composer."""

from collections.abc import Sequence

from textual.content import Content
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from qwen35_chat.completion import Completion
from qwen35_mlx.terminal import visible


class Completions(OptionList, can_focus=False):
    """Completions to choose from with Up, Down and Tab; hidden while there are none.

    Attributes:
        before: the text before the cursor that they complete.
    """

    def __init__(self) -> None:
        super().__init__(markup=False, compact=True)
        self.choices: Sequence[Completion] = []
        self.before = ""
        self.display = False

    def show(self, choices: Sequence[Completion], before: str = "") -> None:
        self.before = before
        if list(choices) == list(self.choices):
            return
        self.choices = list(choices)
        self.clear_options()
        width = max((len(choice.label) for choice in choices), default=0)
        self.add_options(
            Option(
                Content.assemble(
                    visible(choice.label).ljust(width), ("  " + visible(choice.hint), "dim")
                )
            )
            for choice in choices
        )
        if choices:
            self.highlighted = 0
        self.display = bool(choices)

    def hint(self, label: str, hint: str) -> None:
        """Change the hint of a completion, if it is shown."""
        if any(choice.label == label and choice.hint != hint for choice in self.choices):
            at = self.highlighted
            changed = [
                Completion(c.insert, c.replaces, c.label, hint if c.label == label else c.hint)
                for c in self.choices
            ]
            self.show(changed, self.before)
            self.highlighted = at

    @property
    def chosen(self) -> Completion | None:
        if not self.display or self.highlighted is None:
            return None
        return self.choices[self.highlighted]
