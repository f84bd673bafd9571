"""The list of conversations, and what a search finds in them."""

import time
from collections.abc import Callable, Sequence
from functools import partial

from textual.content import Content
from textual.widgets import Input, Static

from qwen35_chat.controller import Controller
from qwen35_chat.exporting import export, written_to
from qwen35_chat.library_actions import delete, rename, shelve, undelete
from qwen35_chat.screens.moments import period_of, when
from qwen35_chat.screens.picker import Ask, Picker, Row
from qwen35_chat.screens.snippets import marked, one_line, without_marks
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import Shelf
from qwen35_mlx.library.library import ConversationSummary
from qwen35_mlx.library.search import ConversationHits, Snippet
from qwen35_mlx.terminal import visible

CONVERSATIONS_SHOWN = 200
CONVERSATIONS, ARCHIVED, PINNED = "Conversations", "Archived conversations", "Pinned"
NO_CONVERSATION = "No conversation yet: what you send begins one"
NONE_ARCHIVED = "Nothing is archived"


class ConversationList(Picker):
    """All conversations, found by their titles and messages.

    A row's id is c and the conversation's id, and for a found message m and its id: "c3m17".

    Args:
        words: to search for from the start.
        now: seconds since the epoch.
    """

    SCOPE = "sessions"

    def __init__(
        self, controller: Controller, words: str = "", now: Callable[[], float] | None = None
    ):
        super().__init__(
            CONVERSATIONS,
            self._make_rows,
            words=words,
            placeholder="Search titles and everything that was said",
            remapped=controller.settings.keys,
        )
        self._controller = controller
        self._now = now or time.time
        self._titles: dict[int, str] = {}  # of the conversations in the rows
        self._shelves: dict[int, Shelf] = {}
        self._archived = False  # whether those are shown that are archived

    async def _make_rows(self, words: str) -> Sequence[Row]:
        library, calls = self._controller.library, self._controller.calls
        try:
            if words.strip():
                hits = await calls.run("reads", library.search_conversations, words)
                self._titles = {found.conversation: found.best.title for found in hits}
                self._shelves = {found.conversation: found.shelf for found in hits}
                return [self._hit_row(found) for found in hits] or [
                    Row("", Content("Nothing has these words"))
                ]
            shown = partial(library.list, CONVERSATIONS_SHOWN, archived=self._archived)
            listed = await calls.run("reads", shown)
            self._titles = {found.id: found.title for found in listed}
            self._shelves = {found.id: found.shelf for found in listed}
        except Qwen35Error as error:
            return [Row("", Content(visible(str(error))))]
        rows: list[Row] = []
        period = ""
        for found in listed:
            # A conversation that a wrong clock has dated goes with those before it.
            its = PINNED if found.shelf == "pinned" else period_of(found.updated, self._now())
            if its not in ("", period):
                period = its
                rows.append(Row("", Content(period)))
            rows.append(self._conversation_row(found))
        return rows or [Row("", Content(NONE_ARCHIVED if self._archived else NO_CONVERSATION))]

    def _conversation_row(self, found: ConversationSummary) -> Row:
        here = "• " if found.id == self._controller.conversation else "  "
        preview = without_marks(Snippet(one_line(found.preview)[:200], ())).text
        return Row(
            f"c{found.id}",
            Content.assemble(
                here,
                (one_line(found.title) or "Untitled", "bold"),
                (f"  {found.messages} messages{preview and f': {preview}'}", "dim"),
            ),
            Content.styled(when(found.updated, self._now()), "dim"),
        )

    def _hit_row(self, found: ConversationHits) -> Row:
        hit = found.best
        title = marked(found.title, "bold") if found.title.text.strip() else Content("Untitled")
        if hit.message is None:
            label, where = title, "title"
        else:
            # An automatic title is the beginning of the first message.
            same = hit.snippet.text.startswith(found.title.text)
            label = (
                title if same else Content.assemble(title, "  ", marked(without_marks(hit.snippet)))
            )
            number = f"{found.messages} hits" if found.messages > 1 else ""
            role = {"user": "you", "assistant": "reply"}.get(hit.role or "", hit.role or "")
            where = number or ("thinking" if hit.where == "thinking" else role)
        if found.shelf != "listed":
            where = f"{found.shelf} · {where}"
        return Row(
            f"c{found.conversation}" + (f"m{hit.message}" if hit.message else ""),
            label,
            Content.styled(f"{where}  {when(hit.created, self._now()):>6}", "dim"),
        )

    @property
    def words(self) -> str:
        """What is searched for."""
        return self.query_one(Input).value

    @property
    def _marked_conversation(self) -> int | None:
        return int(self.marked[1:].partition("m")[0]) if self.marked else None

    def _show_done(self, line: str) -> None:
        """Show what was done, and the conversations as they are now."""
        self.show_message(line)
        if self.is_attached:
            self.reload(self.marked)

    def rename_marked(self) -> None:
        if (at := self._marked_conversation) is None:
            return

        def named(title: str | None) -> None:
            if title is not None:
                self.perform(self._rename(at, title))

        self.app.push_screen(Ask("Title; empty for an automatic one", self._titles[at]), named)

    async def _rename(self, at: int, title: str) -> None:
        self._show_done(f"Renamed to {await rename(self._controller, title, at)}")

    async def pin_marked(self) -> None:
        if (at := self._marked_conversation) is not None:
            pinned = self._shelves[at] == "pinned"
            await shelve(self._controller, at, "listed" if pinned else "pinned")
            self._show_done(f"{'No longer pinned' if pinned else 'Pinned'}: {self._title_of(at)}")

    async def archive_marked(self) -> None:
        if (at := self._marked_conversation) is not None:
            archived = self._shelves[at] == "archived"
            await shelve(self._controller, at, "listed" if archived else "archived")
            key = self._controller.key("session_archived")
            done = f"{'Back in the list' if archived else 'Archived'}: {self._title_of(at)}"
            self._show_done(done if archived else f"{done}; {key} shows what is archived")

    def show_archived(self) -> None:
        """Show the conversations that are archived, or the others again."""
        self._archived = not self._archived
        self.query_one(".title", Static).update(ARCHIVED if self._archived else CONVERSATIONS)
        self.query_one(Input).value = ""  # a search finds both
        self.reload()

    def _title_of(self, conversation: int) -> str:
        return one_line(self._titles[conversation]) or "Untitled"

    async def delete_marked(self) -> None:
        if (at := self._marked_conversation) is not None:
            title = await delete(self._controller, at)
            key = self._controller.key("session_undo")
            self._show_done(f"Deleted {title or 'it'}; {key} brings it back")

    async def undo(self) -> None:
        self._show_done(f"Back again: {(await undelete(self._controller)).title}")

    async def export_marked(self) -> None:
        if (at := self._marked_conversation) is not None:
            controller = self._controller
            file = await controller.calls.run("files", export, controller.library, at, "")
            self._show_done(written_to(file))
