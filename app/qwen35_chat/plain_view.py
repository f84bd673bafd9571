"""What happens, as lines of text: the view of plain mode."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from qwen35_chat import clipboard
from qwen35_chat.controller import Controller
from qwen35_chat.disk_calls import Work, finished
from qwen35_chat.models import PUBLISHED, local_models, memory_of
from qwen35_chat.personas import EXAMPLE, Personas
from qwen35_chat.plain_files import with_files
from qwen35_chat.progress import short_duration, size_of
from qwen35_chat.question import Question as FileQuestion
from qwen35_chat.settings import display_value, setting_names
from qwen35_chat.stats import Section, plain_lines
from qwen35_chat.tools.calling import CallEnded, CallQuestion, Question
from qwen35_chat.tools.shown import (
    PERMISSION_WORDS,
    first_line,
    said_of,
    shown_arguments,
    shown_name,
    shown_state,
)
from qwen35_chat.tools.toolbox import Toolbox
from qwen35_chat.transitions import (
    ConversationShown,
    LoadFailed,
    MessagePutOff,
    Problem,
    RequestCancelled,
    ThinkingEnded,
    Transition,
    TurnContinued,
    TurnEnded,
    TurnRequested,
    TurnTakenBack,
)
from qwen35_mlx.library.conversation import Conversation, Message, Usage
from qwen35_mlx.library.summaries import whole_path
from qwen35_mlx.session.events import (
    Answer,
    DraftCounts,
    Loaded,
    Loading,
    Notice,
    PrefillProgress,
    ProcessesLost,
    Thinking,
    ToolCall,
    Unloaded,
)
from qwen35_mlx.terminal import visible, visible_line, write_to

PROGRESS_SECONDS = 5.0  # between two lines about a load or a prefill
LISTED_CONVERSATIONS = 20
LONGEST_RESULT = 200  # characters of a tool's result


class PlainView:
    """Renders transitions as lines, and answers commands in lines.

    Args:
        out: where to write; None for standard output.
        clock: seconds.
        agree: lets the user answer a question.

    Attributes:
        answer: the last answer.
    """

    marked_message: int | None = None  # nothing can be marked

    def __init__(
        self,
        controller: Controller,
        out: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
        *,
        agree: Callable[[FileQuestion], bool] = lambda _: False,
    ):
        self.answer = ""
        self._controller = controller
        self._out = out or sys.stdout
        self._clock = clock
        self._agree = agree
        self._part = ""  # of the reply, to which the line that is being written belongs
        self._thinking = False  # the reply has thinking
        self._progress_at = 0.0
        self._listed: dict[str, int] = {}  # the conversations that numbers stand for

    # Transitions

    def begin_wait(self) -> None:
        """Begin to wait for the engine; the first line about progress comes some seconds later."""
        self._progress_at = self._clock()

    def show(self, transition: Transition) -> None:
        """Write the lines of a transition, if it has any."""
        match transition:
            case Loading(what, fraction):
                if fraction is not None and self._progress_due():
                    self.line(f"Loading {what}: {fraction:.0%}")
            case Loaded(model, context):
                self.line(f"{model} is loaded; its context is {context:,} tokens.")
            case Unloaded():
                self.line("The model's memory was given back; the next message loads it again.")
            case LoadFailed(message):
                self._show_load_failure(message)
            case ConversationShown(stored, read_only, selected):
                self._show_conversation(stored, read_only=read_only, first=selected)
            case TurnRequested() | TurnContinued():
                self.answer = ""
                self._thinking = False
            case MessagePutOff():
                self.line("The context is nearly full: the oldest turns are summed up first.")
            case TurnTakenBack(_, error, load_failed):
                self._show_taken_back(error, load_failed=load_failed)
            case RequestCancelled():
                self.line("Stopped.")
            case Notice(message):
                self.line(message)
            case Problem(message) | ProcessesLost(message):
                self.show_message(message, error=True)
            case _:
                self._show_reply(transition)

    def _show_reply(self, transition: Transition) -> None:
        match transition:
            case PrefillProgress(done, total, cached):
                if self._progress_due():
                    what = "Summing up" if self._controller.compacting else "Reading"
                    self.line(f"{what}: {done:,} of {total:,} tokens, {cached:,} from before.")
            case Thinking(text):
                if self._controller.settings.thinking_view == "open":
                    self._write_part("Thinking", text)
                elif not self._thinking:
                    self._cue("Thinking.")
                self._thinking = True
            case ThinkingEnded(seconds):
                self._end_part()
                self._cue(f"Thought for {short_duration(seconds)}.")
            case Answer(text):
                self.answer += text
                self._write_part("Answer", text)
            case ToolCall(name, arguments):
                self.line(f"Asks for {shown_name(name)}({shown_arguments(arguments, None)})")
            case CallEnded(name, text):
                self._show_result(name, text)
            case TurnEnded(note, usage=usage, accepted=accepted):
                self._end_part()
                if note:
                    self.line(note)
                if usage is not None:
                    self._show_usage(usage, accepted)
            case _:
                pass

    def show_question(self, question: Question) -> None:
        """Write what the user is to decide."""
        if isinstance(question, CallQuestion):
            tool = question.tool
            if said := said_of(tool):
                self.line(f"{said}.")
            self.line(f"Run {shown_name(tool.name)} of {shown_name(tool.server)} with")
            self.line(shown_arguments(question.call.arguments))
        else:
            self.line(f"The model has called tools {question.rounds} times in a row. Go on?")

    def _show_result(self, name: str, text: str) -> None:
        first, _, more = text.partition("\n")
        shown = first[:LONGEST_RESULT]
        left = f" ... ({len(text):,} characters)" if more or shown != first else ""
        self.line(f"Result of {shown_name(name)}: {visible_line(shown)}{left}")

    def _show_usage(self, usage: Usage, accepted: DraftCounts | None) -> None:
        drafts = f"{accepted}, " if accepted else ""
        self.line(
            f"({usage.reply_tokens:,} tokens, {usage.decode_rate:.0f} a second, {drafts}"
            f"context {self._controller.used:,} of {self._controller.context:,})"
        )

    def _show_load_failure(self, message: str) -> None:
        self.show_message(message, error=True)
        self.line("/model and a name chooses another model.")

    def _show_taken_back(self, error: str, *, load_failed: bool) -> None:
        if load_failed:
            self._show_load_failure(error)
        elif error:
            self.show_message(error, error=True)
        else:
            self.line("Stopped.")

    def _show_conversation(
        self, stored: Conversation | None, *, read_only: bool, first: int | None
    ) -> None:
        """Write a conversation, from the message `first` on if one is named."""
        if stored is None:
            self.answer = ""
            self.line("A new conversation.")
            return
        path = whole_path(stored)
        ids = [message.id for message in path]
        if first in ids:
            path = path[ids.index(first) :]
        else:
            self.line(f"{stored.title or 'Untitled'}:")
        for number, message in enumerate(path):
            if message.summary is not None:
                self.line(f"Summarised above: {number} messages. /compact undo goes back to them.")
                continue
            who = {"user": "You", "assistant": "Answer"}.get(message.role, message.role)
            which, total = stored.position(message.id)
            version = f" (version {which} of {total})" if total > 1 else ""
            self.line(f"{who}{version}: {message.content}")
            if message.role == "assistant":
                self.answer = message.content
        if read_only:
            self.line("Open in another window: here it can be read only.")

    def _progress_due(self) -> bool:
        """Whether it is time for another line about progress."""
        now = self._clock()
        if now - self._progress_at < PROGRESS_SECONDS:
            return False
        self._progress_at = now
        return True

    # Writing

    def _write_part(self, part: str, text: str) -> None:
        """Write a piece of the thinking or of the answer."""
        if self._part != part:
            self._end_part()
            self._part = part
            self._write(f"{part}: ")
        self._write(text)

    def _end_part(self) -> None:
        if self._part:
            self._part = ""
            self._write("\n")

    def line(self, text: str) -> None:
        """Write a line; a part of the reply that is not complete goes on in another."""
        self._end_part()
        self._write(text + "\n")

    def _cue(self, text: str) -> None:
        """Write a line for someone who waits: only on a terminal."""
        if self._out.isatty():
            self.line(text)

    def show_message(self, text: str, *, error: bool = False) -> None:
        self.line(f"Error: {text}" if error else text)

    def copy(self, text: str) -> None:
        """Copy text to the clipboard."""
        self.line(clipboard.copy(text, self._write_sequence, os.environ))

    def _write_sequence(self, sequence: str) -> None:
        if self._out.isatty():
            self._out.write(sequence)

    def _write(self, text: str) -> None:
        write_to(self._out, visible(text))

    # What command handlers need

    def offer_edit(self, message: Message) -> None:
        if message.role == "assistant":
            self.line(f"The reply: {message.content}")
            self.line("/amend and a text lets it begin so and go on.")
            return
        self.line(f"Your last message: {message.content}")
        self.line("/edit and a text sends that instead.")

    def send_edit(self, message: Message, text: str) -> None:
        if message.role == "assistant":
            self.show(self._controller.amend(message, text))
            return
        whole = with_files(text, self._controller, self._agree, edit=True)
        if whole is not None:
            self.show(self._controller.edit(message.id, whole))

    def list_tools(self, toolbox: Toolbox) -> None:
        """List servers and tools; a command with a name and a word changes one."""
        for state in toolbox.states:
            self.line(f"{shown_name(state.name)}: {shown_state(state)}")
            for offer in toolbox.listed():
                if offer.tool.server == state.name:
                    words = PERMISSION_WORDS[toolbox.permissions.of(offer.tool)]
                    self.line(f"  {offer.name}: {words}. {first_line(offer.tool.description)}")
        self.line("/tools, a server and on or off switches it.")
        self.line("/tools, a tool and ask, always or never says when it runs.")

    def ask_title(self, title: str, then: Callable[[str], Work]) -> None:
        """A command is one line, so there is nothing to ask: the title becomes automatic."""
        finished(then(""))

    def list_conversations(self, words: str, then: Callable[[int, int | None], Work]) -> None:
        """List conversations; a number chooses one of those that were listed last."""
        if words in self._listed:
            finished(then(self._listed[words], None))
            return
        library = self._controller.library
        if words:
            hits = library.search_conversations(words)
            found = {h.conversation: (h.best.title, h.best.snippet.text) for h in hits}
        else:
            summaries = library.list(limit=LISTED_CONVERSATIONS)
            pins = {s.id: "(pinned) " if s.shelf == "pinned" else "" for s in summaries}
            found = {s.id: (pins[s.id] + s.title, s.preview) for s in summaries}
        self._listed = {str(number): found_id for number, found_id in enumerate(found, 1)}
        for number, (title, preview) in enumerate(found.values(), 1):
            shown = " ".join(title.split()) or "Untitled"
            self.line(f"{number}. {shown}: {' '.join(preview.split())[:80]}")
        self.line("/sessions and a number opens one." if found else "There is none.")

    def list_models(self, then: Callable[[str], None]) -> None:
        """List models; a command with a name chooses one."""
        tokens = self._controller.settings.context
        processes = self._controller.processes
        memory, _ = memory_of(processes)
        local = local_models(self._controller.settings.folders)
        here = {known.name for known in local.usable}
        for known in [*local.usable, *(k for k in PUBLISHED if k.name not in here)]:
            place = known.program or "here" if known.path else "to download"
            need = size_of(known.memory_needed(tokens, processes))
            needs = f"{size_of(known.size)}, needs {need}{' in each' * (processes is not None)}"
            kl = "" if known.kl is None else f"KL {known.kl:.3f}, "
            fit = known.memory_fit(tokens, memory, processes)
            self.line(f"{known.name}: {needs}, {kl}{fit}, {place}")
        for damaged in local.left_out:
            self.line(f"{damaged.name} cannot be used: {damaged.reason}")
        self.line("/model and a name uses one, and downloads it if need be.")

    def list_personas(self, folder: Path, personas: Personas, then: Callable[[str], Work]) -> None:
        """List personas; a command with a name chooses one."""
        for persona in personas.usable:
            self.line(f"{persona.name}: {' '.join(persona.system.split())[:80]}")
        for problem in personas.problems.values():
            self.line(f"Left out: {problem}")
        if personas.usable:
            self.line("/prompt and a name uses one here, /prompt none the settings' own again.")
        else:
            self.line(f"Put system prompts into {folder}, each in a file that ends in .md:")
            self.line(EXAMPLE)

    def show_stats(self, sections: Sequence[Section]) -> None:
        for line in plain_lines(sections):
            self.line(line)

    def list_settings(self, change: Callable[[str, str], Work]) -> None:
        """List settings; a command with a name and a value changes one."""
        now = self._controller.settings
        for name in setting_names(now, self._controller.template_arguments):
            self.line(f"{name}: {display_value(now, name) or 'none'}")
        self.line(
            f"/settings name value changes one. The file: {self._controller.settings_file.file}"
        )
