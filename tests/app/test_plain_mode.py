"""`--plain`: the same chat as lines, for screen readers, logs and dumb terminals."""

import itertools
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from qwen35_chat.fake import done

from qwen35_mlx.session.events import (
    Answer,
    Cancelled,
    Event,
    Failed,
    Loaded,
    Loading,
    Notice,
    PrefillProgress,
    Thinking,
    ToolCall,
)
from qwen35_mlx.session.requests import UseModel
from tests.app.drive import reply
from tests.app.plain_drive import FIGURES, STARTED, PlainChat, ctrl_c
from tests.library.messages import add_message, begin_reply, update_reply

BOXES = re.compile("[\u2500-\u257f\u2580-\u259f\u2800-\u28ff]")


def test_a_turn_is_a_few_lines(session: PlainChat) -> None:
    written = session.run("hello", reply("Good ", "day.", thinking="hm"))
    assert written == "Answer: Good day.\n" + FIGURES
    assert session.engine.sent == ["hello"]
    assert session.prompts == ["You: ", "You: "]


def test_thinking_is_written_out_or_left_out_as_the_settings_say(session: PlainChat) -> None:
    written = session.run(
        "/view open", "one", reply("1", thinking="\nhm\nhm"),
        "/view hidden", "two", reply("2", thinking="hm"),
    )  # fmt: skip
    assert written == (
        f"thinking_view: open\nThinking: hm\nhm\nAnswer: 1\n{FIGURES}"
        f"thinking_view: hidden\nAnswer: 2\n{FIGURES}"
    )


@pytest.mark.parametrize(
    ("view", "before"),
    [("collapsed", "Thinking.\n"), ("hidden", "Thinking.\n"), ("open", "Thinking: hm hm\n")],
)
def test_on_a_terminal_thinking_has_a_line_at_its_start_and_its_end(
    session: PlainChat, view: str, before: str
) -> None:
    session.out.isatty = lambda: True
    thinks = [Thinking("hm"), Thinking(" hm")]
    session.controller._clock = itertools.count(0, 12.4).__next__
    written = session.run(f"/view {view}", "hello", [*thinks, Answer("Good day."), done()])
    lines = f"{before}Thought for 12 s.\nAnswer: Good day.\n{FIGURES}"
    assert written == f"thinking_view: {view}\n{lines}"


def test_a_backslash_continues_the_message_in_the_next_line(session: PlainChat) -> None:
    session.run("one\\", "two\\", "", reply("so"))
    assert session.engine.sent == ["one\ntwo\n"]
    assert session.prompts == ["You: ", "More: ", "More: ", "You: "]


def test_blank_lines_are_not_sent(session: PlainChat) -> None:
    assert session.run("", "  ") == ""
    assert session.engine.sent == []


def test_files_are_sent_with_a_message(session: PlainChat) -> None:
    Path("a.txt").write_text("text\n")
    session.run("see @a.txt", reply("so"), "see @none.txt", "/quit")
    assert session.engine.sent == ['see @a.txt\n\n<file name="a.txt">\ntext\n</file>']
    assert "Error: there is no file none.txt" in session.out.getvalue()


def test_a_long_prefill_and_a_slow_load_report_progress_at_intervals(home: Path) -> None:
    session = PlainChat(home, loads=False)

    def later(*events: Event) -> Callable[[], None]:
        def step() -> None:
            session.now += 6
            session.engine.play(events)

        return step

    session.steps = [
        lambda: session.engine.play([Loading("org/repo", 0.1)]),  # too soon for a line
        later(Loading("org/repo", 0.5)),
        later(Loaded("org/repo", 8_192)),
    ]
    session._typed = ["hello"]
    session.steps += [
        later(PrefillProgress(512, 2_048, 128)),
        lambda: session.engine.play([PrefillProgress(1_024, 2_048, 128)]),
        lambda: session.engine.play([Answer("so"), done()]),
    ]
    session.plain.run()
    assert session.out.getvalue() == (
        f"{STARTED}Loading org/repo: 50%\n"
        "org/repo is loaded; its context is 8,192 tokens.\n"
        "Reading: 512 of 2,048 tokens, 128 from before.\n"
        "Answer: so\n(20 tokens, 38 a second, context 120 of 8,192)\n\n"
    )


def test_calls_notices_limits_and_failures_are_lines(session: PlainChat) -> None:
    written = session.run(
        "one", [Notice("a state was damaged")], [ToolCall("now", {"zone": "UTC"})],
        [done("tool_calls")],
        "two", [Answer("Once"), done("length")],
        "three", [Answer("Twice"), Failed("out of memory")],
    )  # fmt: skip
    assert written == (
        'a state was damaged\nAsks for now({"zone": "UTC"})\n'
        f"The model asks for a tool; none was run.\n{FIGURES}"
        "Answer: Once\nCut short: the reply reached the limit of tokens. /continue goes on.\n"
        f"{FIGURES}Answer: Twice\nError: out of memory\n"
    )


def test_no_boxes_and_no_control_characters_are_written(session: PlainChat) -> None:
    text = "a\x1b[2J\x1b]0;t\x07\x9bH\rb"
    written = session.run(
        f"{text}?", reply(text, thinking=text), f"/rename {text}", "/sessions", "/help",
        "/settings", "/model", "/view open", "again",
        reply(f"| a | b |\n|---|---|\n| {text} | 2 |"),
    )  # fmt: skip
    assert not BOXES.search(written)
    assert not {"\x1b", "\x07", "\x9b", "\r"} & set(written)
    assert "a␛[2J␛]0;t␇\\x9bH␍b" in written


def test_ctrl_c_stops_a_reply_and_keeps_its_text(session: PlainChat) -> None:
    session.steps = [
        lambda: session.engine.play([Answer("Once upon")]),
        ctrl_c(session, []),
        lambda: session.engine.play([Cancelled()]),
    ]
    before = signal.getsignal(signal.SIGINT)
    written = session.run("a story", "/copy")
    assert written.startswith("Answer: Once upon\nStopped.\n")
    assert "cancel" in session.engine.calls
    stored = session.library.conversation(1).path()
    assert (stored[-1].content, stored[-1].state) == ("Once upon", "cancelled")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_at_the_end_of_a_reply_loses_nothing(session: PlainChat) -> None:
    session.steps = [ctrl_c(session, [Answer("all of it"), done()])]
    written = session.run("one", "two", reply("more"))
    assert written == f"Answer: all of it\n{FIGURES}Answer: more\n{FIGURES}"
    assert "cancel" not in session.engine.calls


def test_ctrl_c_while_a_model_loads_goes_on_without_it(home: Path) -> None:
    session = PlainChat(home, loads=False)
    session.steps = [
        ctrl_c(session, []), lambda: session.engine.play([Cancelled()]),
    ]  # fmt: skip
    assert "Stopped." in session.run("/thinking off")
    assert session.controller.settings.thinking == "off"


def test_ctrl_c_in_an_empty_line_prompts_again(session: PlainChat) -> None:
    assert session.run(KeyboardInterrupt(), "one", reply("so")) == f"\nAnswer: so\n{FIGURES}"


def test_a_failed_load_names_the_next_step(home: Path) -> None:
    session = PlainChat(home, loads=False)
    session.steps = [lambda: session.engine.play([Failed("nothing there")])]
    written = session.run("/model org/other")
    assert "Error: nothing there\n/model and a name chooses another model.\n" in written
    assert UseModel("org/other") in session.engine.calls
    assert 'model = "org/other"' in (home / "settings.toml").read_text()


def test_the_end_of_the_input_amid_a_message_keeps_it_as_a_draft(home: Path) -> None:
    first = PlainChat(home)
    first.run("half a thought\\")
    first.library.close()
    second = PlainChat(home)
    written = second.run("whole", reply("so"))
    assert written.startswith("Not sent last time: half a thought\n")
    second.library.close()
    third = PlainChat(home)
    assert "Not sent" not in third.run()
    third.library.close()


def test_a_conversation_goes_on_with_its_draft_and_its_cut_off_reply(home: Path) -> None:
    first = PlainChat(home)
    conversation = first.library.create(model="demo")
    user = add_message(first.library, conversation, None, "user", "one")
    update_reply(
        first.library, begin_reply(first.library, conversation, user.id, "demo").id, "half of it"
    )
    first.library.save_draft(conversation, "and then")
    first.library.close()
    second = PlainChat(home)
    second.run(at=conversation)
    written = second.out.getvalue()
    assert "one:\nYou: one\nAnswer: half of it\n" in written
    assert "Not sent last time: and then" in written
    second.library.close()


def test_quit_and_the_end_of_the_input_end_it(session: PlainChat) -> None:
    session.run("/quit")
    assert len(session.prompts) == 1
    assert session.plain._ended
