"""Invalid command lines: one line on standard error, exit code 2, and no model is loaded."""

import io
import sys

import pytest
from qwen35_chat import one_shot
from qwen35_chat.main import _standard_input, main

from qwen35_mlx import __version__


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def start_turn(*_: object) -> None:
        raise AssertionError("the model was used")

    monkeypatch.setattr(one_shot, "start_turn", start_turn)


def set_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


@pytest.mark.parametrize(
    ("argv", "names"),
    [
        (["-p", "hi", "--top-p", "0"], "--top-p: '0' is not a number above 0 and at most 1"),
        (["-p", "hi", "--top-p", "1.5"], "--top-p"),
        (["-p", "hi", "--top-k", "-1"], "--top-k: '-1' is not a whole number of 0 or more"),
        (["-p", "hi", "--top-k", "2.5"], "--top-k"),
        (["-p", "hi", "--temperature", "nan"], "--temperature"),
        (["-p", "hi", "--temperature", "inf"], "--temperature"),
        (["-p", "hi", "--temperature", "-0.1"], "--temperature"),
        (
            ["-p", "hi", "--temperature", "100"],
            "--temperature: '100' is not a number from 0 to below 100",
        ),
        (
            ["-p", "hi", "--thinking-budget", "-2"],
            "--thinking-budget: '-2' is not -1 (no limit) or a whole number",
        ),
        (["-p", "hi", "--template-arg", "a"], "--template-arg: 'a' is not NAME=VALUE"),
        (["-p", "hi", "--template-arg", "=1"], "--template-arg: '=1' is not NAME=VALUE"),
        (
            ["-p", "hi", "--max-tokens", "0"],
            "--max-tokens: '0' is not -1 (no limit) or a whole number",
        ),
        (["-p", "hi", "--max-tokens", "many"], "--max-tokens"),
        (["-p", "hi", "--seed", "-1"], "--seed"),
        (
            ["-p", "hi", "--seed", str(1 << 64)],
            "--seed: '18446744073709551616' is not a number from",
        ),
        (["-p", "hi", "--seed", "1" + 400 * "0"], "--seed"),
        (["-p", "hi", "--mtp", "7"], "--mtp"),
        (["-p", "hi", "--mtp", "on"], "--mtp"),
        (["-p", "hi", "--model", ""], "--model is empty"),
        (["-p"], "-p/--prompt"),
        (["-p", "hi", "--temp", "1"], "--temp"),
        (["-p", "hi", "extra"], "extra"),
        (["-p", "\udcff"], "the text is not UTF-8"),
        (["-p", "hi", "--system", "\udcff"], "the text is not UTF-8"),
    ],
)
def test_an_invalid_option_is_named(argv, names, monkeypatch, capsys) -> None:
    set_stdin(monkeypatch, b"")
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert names in err


@pytest.mark.parametrize("argv", [[], ["-p", ""], ["-p", " \n"]])
def test_an_empty_prompt(argv, monkeypatch, capsys) -> None:
    set_stdin(monkeypatch, b" \n")
    assert main(argv) == 2
    assert capsys.readouterr().err.startswith("error: the prompt is empty: ")


def test_standard_input_that_is_not_text(monkeypatch, capsys) -> None:
    set_stdin(monkeypatch, b"\xff\x80")
    assert main([]) == 2
    assert capsys.readouterr().err.startswith(
        "error: standard input is not text in UTF-8, UTF-16, GBK or Big5: "
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("\ufeff你好", "standard input is read as UTF-8 with a byte order mark\n"),
        ("你好", ""),
    ],
)
def test_standard_input_without_its_byte_order_mark(data, said, monkeypatch, capsys) -> None:
    set_stdin(monkeypatch, data.encode())
    assert _standard_input() == "你好"
    assert capsys.readouterr().err == said


def test_closed_streams(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: the prompt is empty")
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["-p", "hi"]) == 2
    assert capsys.readouterr().err.startswith("error: standard output is closed")


def test_the_chat_needs_a_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert main([]) == 2
    assert capsys.readouterr().err.startswith("error: the chat needs a terminal")


def test_version(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"qwen35-chat {__version__}\n"
