"""What the commands do on the chat screen."""

from collections.abc import Callable
from pathlib import Path

from qwen35_chat.attachments import taken_apart, with_files
from qwen35_chat.drawing.entries import Entry, ReplyEntry, ThinkingView, UserEntry
from qwen35_chat.editor import edited
from qwen35_chat.exporting import export
from qwen35_chat.screens.choices import Choices
from qwen35_chat.screens.lists import (
    Palette,
    Past,
    Sessions,
    help_text,
)
from qwen35_chat.screens.picker import Ask, Page
from qwen35_chat.widgets.transcript import TranscriptView
from qwen35_mlx.errors import Qwen35Error


class Acts(Choices):
    """Each method is a command of the table; a `Qwen35Error` is shown by who called it."""

    # Sending

    def send_composed(self) -> None:
        text = self.composer.text.strip() and self.composer.whole
        if not text:
            if not self.hello or self.controller.busy:
                return
            text = self.hello
        try:
            if self.editing is None and self.slash(text):
                self.composer.clear()
                return
        except Qwen35Error as error:
            self.say(str(error), error=True)
            return
        if self.controller.failed:
            said = f"There is no model to answer: {self.key('models')} chooses one"
            self.say(said, error=True)
            return
        try:
            whole = with_files(text, Path.cwd())
            if self.editing is not None:
                self._send_edit(whole)
            elif self.controller.busy:
                self.controller.queue.append(whole)
                self.show_queue()
            else:
                self.send(whole)
        except Qwen35Error as error:
            self.say(str(error), error=True)
            return
        self.composer.set_text(self.aside)
        self.aside = ""
        self.editing = None
        self.composer.placeholder = "Write a message, / for commands, @ for a file"
        self.save_draft()
        try:
            self.controller.past.add(text)
        except Qwen35Error as error:
            self.say(str(error), error=True)
        self.show_cue()

    def _send_edit(self, text: str) -> None:
        assert self.editing is not None
        message = self.editing
        self.controller.edit(message, text)
        self.cut_after(message, including=True)
        self.begin_turn(text, asked=UserEntry(text))

    def new_line(self) -> None:
        self.composer.insert("\n")

    def stop(self) -> None:
        if self.editing is not None and not self.controller.busy:
            self.leave_edit()
        elif self.controller.busy:
            self.controller.stop()
        self.show_cue()

    # Versions

    def retry(self) -> None:
        marked = self.transcript.marked
        message = marked.message if marked is not None else None
        user = self.controller.retry(message)
        self.cut_after(user.id, including=False)
        self.composer.focus()
        self.begin_turn("", asked=None)

    def edit(self, text: str = "") -> None:
        message = self.controller.last_asked()
        if text:
            self.editing = message.id
            self.composer.set_text(text)
            self.send_composed()
            return
        self._begin_edit(message.id, message.content)

    def edit_marked(self) -> None:
        marked = self.transcript.marked
        if marked is None or marked.message is None:
            raise Qwen35Error("this message is not in a conversation yet")
        message = self.controller.last_asked(marked.message)
        self._begin_edit(message.id, message.content)

    def branch(self) -> None:
        """Go on from a message another way: a new message beside the one that follows it."""
        marked = self.transcript.marked
        if marked is None or marked.message is None:
            raise Qwen35Error("this message is not in a conversation yet")
        if isinstance(marked, UserEntry):
            self.edit_marked()
            return
        follows = self.controller.after(marked.message)
        if follows is None:
            self.composer.focus()
            self.say("This is the last reply: just write on")
            return
        self._begin_edit(follows.id, "")

    def _begin_edit(self, message: int, text: str) -> None:
        if self.controller.busy:
            raise Qwen35Error("a reply is being written: Esc stops it")
        if self.editing is None:
            self.aside = self.composer.whole
        self.editing = message
        plain, files = taken_apart(text)
        # Files that are still there are named again; others stay in the text as they were sent.
        kept = all(f"@{file.name}" in plain or f'@"{file.name}"' in plain for file in files)
        self.composer.set_text(plain if kept else text)
        self.composer.focus()
        self.show_cue()

    def leave_edit(self) -> None:
        if self.editing is not None:
            self.editing = None
            self.composer.set_text(self.aside)
            self.aside = ""
            self.show_cue()

    def sibling(self, step: int) -> None:
        marked = self.transcript.marked
        to = self.controller.sibling(step, marked.message if marked is not None else None)
        self.mark_next = to if marked is not None else None

    def compact(self) -> None:
        self.controller.compact()
        self.begin_summary()

    # Conversations

    def new(self) -> None:
        self.save_draft()
        self.controller.open(None)

    def sessions(self, words: str = "") -> None:
        def opened(row: str | None) -> None:
            if row is None:
                return
            conversation, _, message = row[1:].partition("m")
            self.save_draft()
            self.open_conversation(int(conversation), int(message) if message else None)

        self.app.push_screen(Sessions(self.controller, words), opened)

    def open_conversation(self, conversation: int, message: int | None = None) -> None:
        try:
            if message is not None:
                stored = self.controller.library.conversation(conversation)
                if all(m.id != message for m in stored.path()):
                    self.controller.library.select(conversation, stored.newest_leaf(message))
            self.controller.open(conversation)
        except Qwen35Error as error:
            self.say(str(error), error=True)

    def rename(self, title: str = "") -> None:
        def named(given: str | None) -> None:
            if given is not None:
                try:
                    self.say(f"Renamed to {self.controller.rename(given)}")
                except Qwen35Error as error:
                    self.say(str(error), error=True)

        if title:
            named(title)
        elif self.controller.conversation is None:
            raise Qwen35Error("this conversation has no message yet")
        else:
            hint = "Title; empty for an automatic one"
            self.app.push_screen(Ask(hint, self.controller.title), named)

    def delete(self) -> None:
        self.say(f"Deleted {self.controller.delete()}; /undo brings it back")

    def undo(self) -> None:
        back = self.controller.undelete()
        self.controller.open(back.id)
        self.say(f"Back again: {back.title}")

    def export(self, name: str = "") -> None:
        if self.controller.conversation is None:
            raise Qwen35Error("this conversation has no message yet")
        self.say(f"Written to {export(self.controller, self.controller.conversation, name)}")

    # The screen

    def view_all(self, view: ThinkingView) -> None:
        for entry in self.transcript.entries:
            if isinstance(entry, ReplyEntry):
                entry.show_thinking(view)
        self.transcript.relaid()

    def messages(self) -> None:
        self.transcript.focus()

    def leave_messages(self) -> None:
        self.composer.focus()

    def mark(self, step: int) -> None:
        self.transcript.mark(step)

    def toggle_marked(self) -> None:
        if self.transcript.marked is not None:
            self.transcript.marked.toggle()
            self.transcript.settle()

    def page(self, direction: int) -> None:
        self.transcript.scroll_page(direction)

    def follow(self) -> None:
        self.transcript.follow()

    def palette(self) -> None:
        def chosen(name: str | None) -> None:
            if name is not None:
                self.call_later(self.action_command, name)

        self.app.push_screen(Palette(self.controller.settings.keys), chosen)

    def help(self) -> None:
        keys = self.controller.settings.keys
        self.app.push_screen(Page("Keys and commands", lambda width: help_text(keys, width)))

    def quit(self) -> None:
        self.save_draft()
        self.app.exit()

    # Text

    def copy_reply(self) -> None:
        entry = self.transcript.marked or self._last(
            lambda e: isinstance(e, ReplyEntry) and e.copied
        )
        if entry is None or not entry.copied:
            raise Qwen35Error("there is nothing to copy yet")
        self.app.copy_to_clipboard(entry.copied)

    def copy_code(self) -> None:
        marked = self.transcript.marked
        entry = marked or self._last(lambda e: bool(e.codes))
        if entry is None or not entry.codes:
            raise Qwen35Error("there is no code here")
        if marked is None:
            self.app.copy_to_clipboard(entry.codes[-1])
            return
        which = self._copied_code.get(entry.key, -1) + 1
        which %= len(entry.codes)
        self._copied_code = {entry.key: which}
        self.app.copy_to_clipboard(entry.codes[which])

    _copied_code: dict[int, int] = {}  # noqa: RUF012 - replaced, never changed

    def _last(self, wanted: Callable[[Entry], object]) -> Entry | None:
        return next((e for e in reversed(self.transcript.entries) if wanted(e)), None)

    def clicked(self, event: TranscriptView.Clicked) -> None:
        try:
            if event.name == "link":
                self.app.open_url(str(event.argument))
            elif event.entry is None:
                return
            elif event.name == "code":
                self.app.copy_to_clipboard(event.entry.codes[int(event.argument)])
            elif event.name == "sibling":
                self.controller.sibling(int(event.argument), event.entry.message)
        except (Qwen35Error, IndexError) as error:
            self.say(str(error), error=True)
        self.composer.focus()

    def editor(self) -> None:
        with self.app.suspend():
            text = edited(self.composer.whole)
        self.composer.set_text(text)
        self.app.refresh()

    def expand_paste(self) -> None:
        whole = self.composer.whole
        if whole == self.composer.text:
            raise Qwen35Error("there is no paste to expand")
        self.composer.set_text(whole)

    def history(self) -> None:
        texts = list(self.controller.past.texts)

        def chosen(row: str | None) -> None:
            if row is not None:
                self.composer.put_back(texts[int(row)])

        self.app.push_screen(Past(texts), chosen)

    def step_history(self, direction: int) -> None:
        if direction < 0 and self.controller.queue and not self.composer.text:
            self.composer.set_text(self.controller.queue.pop())
            self.show_queue()
            return
        if (text := self.controller.past.step(direction, self.composer.text)) is not None:
            self.composer.set_text(text)
            self.composer.browsing = self.controller.past.browsing

    def _greet(self) -> None:
        if self.hello:
            self.composer.placeholder = f"{self.hello}  (Enter sends this)"
