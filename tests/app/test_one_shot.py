"""`qwen35-chat -p`, with scripted events in place of a model."""

import io
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Generator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from qwen35_chat import one_shot
from qwen35_chat.fake import done
from qwen35_chat.main import main
from qwen35_chat.options import CommandOptions
from qwen35_chat.settings import FILE_NAME, PRESETS

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.library.conversation import ChatSettings
from qwen35_mlx.session.chat import Chat
from qwen35_mlx.session.events import (
    Answer,
    PrefillProgress,
    Thinking,
    ToolCall,
    TurnEvent,
)
from qwen35_mlx.session.model import Model
from tests.app.drive import played

StartedTurns = list[tuple[str, CommandOptions]]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., StartedTurns]:
    """A function that takes the events of the turn and returns the list of turns started."""

    def install(*events: TurnEvent | Exception) -> StartedTurns:
        started: StartedTurns = []

        def start_turn(
            prompt: str,
            options: CommandOptions,
            progress: Callable[[int, int, str], None],
            notice: Callable[[str], None] | None,
            processes: None,
        ) -> Generator[TurnEvent]:
            started.append((prompt, options))
            progress(500_000_000, 2_000_000_000, "model.safetensors")
            yield from played(events)

        monkeypatch.setattr(one_shot, "start_turn", start_turn)
        return started

    return install


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    def install(data: bytes) -> None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    return install


@pytest.fixture(autouse=True)
def nothing_piped_in(stdin: Callable[[bytes], None]) -> None:
    stdin(b"")


@pytest.fixture
def settings_text(home: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        file = home / FILE_NAME
        file.write_text(text)
        return file

    return write


def terminals(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def test_the_answer_alone_goes_to_standard_output(script, capsys) -> None:
    script(PrefillProgress(0, 9, 0), Thinking("hm"), Answer("Hello"), Answer(" there"), done())
    assert main(["-p", "hi"]) == 0
    assert capsys.readouterr() == ("Hello there\n", "")


def test_an_answer_that_ends_in_a_newline_gets_no_second_one(script, capsys) -> None:
    script(Answer("Hello\n"), done())
    main(["-p", "hi"])
    assert capsys.readouterr().out == "Hello\n"


def test_each_piece_is_written_as_it_is_generated(script, capsys) -> None:
    script(Answer("first"), Qwen35Error("then it broke"))
    assert main(["-p", "hi"]) == 2
    assert capsys.readouterr() == ("first\n", "error: then it broke\n")


def test_prompt_then_standard_input(script, stdin) -> None:
    started = script(done())
    stdin("le texte : é\n".encode())
    main(["-p", "translate this"])
    assert started[0][0] == "translate this\n\nle texte : é\n"


def test_standard_input_alone_is_a_prompt(script, stdin) -> None:
    started = script(done())
    stdin(b"hi")
    assert main([]) == 0
    assert started[0][0] == "hi"


def test_options_reach_the_model(script) -> None:
    started = script(done())
    main(
        [
            "-p",
            "hi",
            "-m",
            "org/repo",
            "--revision",
            "abc",
            "--system",
            "Be.brief",
            "--no-thinking",
            "--thinking-budget",
            "0",
            "--no-repetition-guard",
            "--template-arg",
            "reasoning_effort=low",
            "--template-arg",
            "documents=[1, null]",
            "--max-tokens",
            "5",
            "--temperature",
            "0",
            "--top-p",
            "0.5",
            "--top-k",
            "3",
            "--seed",
            "7",
            "--context",
            "9000",
            "--kv-bits",
            "8",
            "--adapter-path",
            "org/adapter",
            "--mtp",
            "3",
            "--resume",
            "Ada",
        ]
    )
    assert started[0][1] == CommandOptions(
        model="org/repo",
        revision="abc",
        chat={
            "system": "Be.brief",
            "thinking": False,
            "thinking_budget": 0,
            "repetition_guard": False,
            "template_arguments": {"reasoning_effort": "low", "documents": [1, None]},
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 3,
        },
        turn={"max_tokens": 5, "seed": 7},
        load={"context": 9000, "kv_bits": 8, "adapter_path": "org/adapter"},
        mtp="3",
        tools_folder="",
        resume="Ada",
    )


def test_without_options_the_demo_and_the_models_own_defaults(script) -> None:
    started = script(done())
    main(["-p", "hi"])
    options = started[0][1]
    assert options.model == "demo"
    assert {*options.chat.values(), *options.turn.values()} == {None}
    assert options.settings == ChatSettings()


SETTINGS = """
model = "org/large"
system = "Be kind."
thinking = "on"
preset = "precise"
thinking_budget = 9
repetition_guard = "off"
max_tokens = 50
mtp = "2"
tools_folder = "~/notes"

[sampling]
temperature = 0.1

[template_arguments]
documents = 1
"""


def test_the_settings_hold_for_what_the_options_leave_open(script, settings_text) -> None:
    started = script(done())
    settings_text(SETTINGS)
    main(["-p", "hi"])
    main(["-p", "hi", "-m", "demo", "--mtp", "off", "--tools-folder", "~/x", "--allow-tools", "y"])
    kept, given = (options for _, options in started)
    assert (kept.model, kept.mtp, kept.tools_folder) == ("org/large", "2", "~/notes")
    assert (given.model, given.mtp, given.tools_folder) == ("demo", "off", "~/x")
    assert kept.settings == given.settings
    assert kept.settings == ChatSettings(
        system="Be kind.",
        thinking=True,
        max_tokens=50,
        sampling={**PRESETS["precise"], "temperature": 0.1},
        template_arguments={"documents": 1},
        thinking_budget=9,
        repetition_guard=False,
    )


def test_a_stored_conversation_keeps_its_own_settings(script, settings_text) -> None:
    started = script(done())
    settings_text(SETTINGS)
    main(["-p", "hi", "--continue"])
    assert (started[0][1].model, started[0][1].settings) == ("org/large", None)


def test_a_mistake_in_the_settings_is_one_line(script, settings_text, capsys) -> None:
    started = script(done())
    file = settings_text('\nthinking = "perhaps"')
    assert main(["-p", "hi"]) == 2
    assert started == []
    error = capsys.readouterr().err
    assert error.startswith(f"error: {file}, line 2: thinking must be one of")
    assert error.count("\n") == 1


@pytest.fixture
def reply_seen(monkeypatch: pytest.MonkeyPatch, model: Model) -> list[Any]:
    """Notes the chat that one answer is written in, with the small random model."""
    seen: list[Any] = []

    class SeenChat(Chat):
        def send(self, content, **options):
            seen.append((self.settings, self._options(options)))
            return super().send(content, **{**options, "max_tokens": 1})

    monkeypatch.setattr(one_shot.qwen35_mlx, "load", lambda *_, **__: model)
    monkeypatch.setattr(one_shot.qwen35_mlx, "Chat", SeenChat)
    return seen


def test_options_go_before_settings_in_the_reply(reply_seen, settings_text, capsys) -> None:
    """Also where both mean the same under two names."""
    settings_text(SETTINGS)
    argv = ["-p", "hi", "--temperature", "0.5", "--max-tokens", "-1", "--thinking-budget", "-1"]
    assert main([*argv, "--template-arg", "enable_thinking=false"]) == 0
    ((kept, used),) = reply_seen
    assert (used.thinking, used.template_arguments) == (None, {"enable_thinking": False})
    assert (used.max_tokens, used.thinking_budget) == (-1, -1)
    assert used.sampling == {**PRESETS["precise"], "temperature": 0.5}
    assert (kept.system, used.repetition_guard) == ("Be kind.", False)
    line = "note: the settings have the template argument 'documents', which "
    assert line in capsys.readouterr().err


def test_an_argument_of_the_command_that_the_template_does_not_read_is_refused(
    reply_seen, capsys
) -> None:
    assert main(["-p", "hi", "--template-arg", "documents=1"]) == 2
    assert "does not read the argument 'documents'" in capsys.readouterr().err
    assert reply_seen == []


def test_thinking_is_shown_on_request_on_standard_error(script, capsys) -> None:
    script(Thinking("let me "), Thinking("see"), Answer("42"), done())
    main(["-p", "hi", "--show-thinking"])
    assert capsys.readouterr() == ("42\n", "let me see\n")


def test_on_a_terminal_thinking_is_dim(script, monkeypatch) -> None:
    _, err = terminals(monkeypatch)
    monkeypatch.delenv("NO_COLOR", raising=False)
    script(Thinking("hm"), Answer("42"), done())
    main(["-p", "hi", "--show-thinking"])
    assert "\x1b[2mhm\x1b[22m\n" in err.getvalue()


def test_no_color_disables_dimming(script, monkeypatch) -> None:
    _, err = terminals(monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    script(Thinking("hm"), Answer("42"), done())
    main(["-p", "hi", "--show-thinking"])
    assert "\x1b[2m" not in err.getvalue()


def test_a_terminal_shows_what_is_in_progress_until_the_answer_begins(script, monkeypatch) -> None:
    out, err = terminals(monkeypatch)
    script(PrefillProgress(0, 9, 0), Thinking("hm"), Answer("42"), done())
    main(["-p", "hi"])
    assert "loading demo ..." in err.getvalue()
    assert "downloading ... 25% of 2.0 GB" in err.getvalue()
    assert err.getvalue().endswith("thinking ...\r\x1b[2K")
    assert out.getvalue() == "42\n"


def test_escape_sequences_are_made_visible_on_a_terminal_and_kept_in_a_pipe(
    script, monkeypatch, capsys
) -> None:
    script(Thinking("\x1b[2J"), Answer("\x1b[31mred"), done())
    main(["-p", "hi"])
    assert capsys.readouterr().out == "\x1b[31mred\n"
    out, err = terminals(monkeypatch)
    main(["-p", "hi", "--show-thinking"])
    assert out.getvalue() == "␛[31mred\n"
    assert "␛[2J" in err.getvalue()


def test_a_reply_cut_short_is_noted_on_standard_error(script, capsys) -> None:
    script(Answer("Once upon"), done("length", reply=1500))
    assert main(["-p", "hi"]) == 0
    assert capsys.readouterr() == (
        "Once upon\n",
        "note: the reply was cut short after 1,500 tokens\n",
    )


def test_a_reply_that_repeated_itself_is_noted_on_standard_error(script, capsys) -> None:
    script(Answer("la la"), done("repetition", reply=4096))
    assert main(["-p", "hi"]) == 0
    assert capsys.readouterr() == (
        "la la\n",
        "note: the reply was ended after 4,096 tokens, since it went on repeating itself\n",
    )


def test_a_tool_call_is_written_as_a_call(script, capsys) -> None:
    script(ToolCall("weather", MappingProxyType({"city": "Zürich"})), done("tool_calls"))
    main(["-p", "hi"])
    assert capsys.readouterr().out == 'weather({"city": "Zürich"})\n'


def test_characters_that_the_output_cannot_encode_do_not_abort_the_answer(
    script, monkeypatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    script(Answer("naïve"), done())
    assert main(["-p", "hi"]) == 0
    assert raw.getvalue() == b"na?ve\n"


# With real pipes and signals

STUB = """
import signal, sys, time
from qwen35_chat import one_shot
from qwen35_chat.main import main
from qwen35_mlx.session.events import Answer

def start_turn(*_):
    try:
        while True:
            yield Answer("word ")
            time.sleep(0.001)
    finally:
        print("turn closed", file=sys.stderr)

# A background process of a shell script starts with Ctrl+C ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
one_shot.start_turn = start_turn
sys.exit(main(["-p", "hi"]))
"""


def start(**streams) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(STUB)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        **streams,
    )


def test_ctrl_c_ends_the_turn_without_a_traceback() -> None:
    with start(stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "turn closed\ninterrupted\n"
    assert out.endswith("\n")


def test_a_reader_that_closes_the_pipe_ends_the_turn_quietly() -> None:
    with start(stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(20)
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == "turn closed\n"
    assert process.wait(timeout=20) == 141


def test_an_output_that_cannot_be_written_is_a_one_line_error(tmp_path) -> None:
    path = tmp_path / "read only"
    path.touch()
    with path.open() as unwritable, start(stdout=unwritable) as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode == 2
    assert err == "turn closed\nerror: the answer cannot be written: Bad file descriptor\n"


def test_without_a_backend_the_error_names_what_to_install(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    assert main(["-p", "hi"]) == 2
    assert "qwen35-mlx[cpu]" in capsys.readouterr().err
