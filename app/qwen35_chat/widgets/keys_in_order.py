"""Keys that act in the order in which they were pressed."""

from textual import events
from textual.widget import Widget

from qwen35_chat.textual_private import bindings_of


class KeysInOrder:
    """Comes before a widget of Textual to type in: its own bindings run as its keys arrive.

    Textual runs them after the characters that were typed next. An input method that takes back
    letters and types others, as those for Vietnamese do, would lose the others.
    """

    async def _on_key(self, event: events.Key) -> None:
        assert isinstance(self, Widget)
        for binding in bindings_of(self).key_to_bindings.get(event.key, ()):
            if not binding.priority and await self.app.run_action(binding.action, self):
                event.stop()
                event.prevent_default()
                return
