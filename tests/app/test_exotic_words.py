"""Any word in any place that takes one: an answer, or an error of one line."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import pytest
from qwen35_chat import completion
from qwen35_chat.commands import BY_SLASH, SCOPE_OF
from qwen35_chat.main import main
from qwen35_chat.models import local_models
from qwen35_chat.settings import FIELDS, SAMPLING, parse_value, settings_file
from qwen35_chat.settings_file import SettingsFile

from qwen35_mlx.checkpoint.stored import local_checkpoint
from qwen35_mlx.convert import main as convert_main
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.session.__main__ import main as session_main
from tests.app.words import EXOTIC, UNTYPABLE

WORDS = (*EXOTIC, *UNTYPABLE)


def unreachable(*_: object, **__: object) -> str:
    raise huggingface_hub.errors.LocalEntryNotFoundError("no network")


@pytest.fixture(autouse=True)
def deep_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so deep that a word with some ".." stays in `tmp_path`."""
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path / "qwen"))
    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    return folder


def is_clean(text: str) -> bool:
    return all(c.isprintable() or c in "\t\n\u202e\u2028\ufeff\u0301\u200d" for c in text)


def checked(run: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> int:
    """Run a command; its errors are at most one line, and nothing has control characters."""
    try:
        code = run()
    except SystemExit as stop:  # from --help
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    assert err.count("\n") <= 1, err
    assert is_clean(err), repr(err)
    assert is_clean(out), repr(out)
    assert code in (0, 2)
    assert (code == 2) == err.startswith("error: "), err  # "no conversations yet" is another line
    return code


CHAT_OPTIONS = (
    *("--export", "--import", "--resume", "--format", "--top-k", "--seed", "--temperature"),
    *("--kv-bits", "--context", "--max-tokens", "--revision", "--thinking"),
    "--adapter-path",
)


@pytest.mark.parametrize("option", CHAT_OPTIONS)
def test_options_of_the_chat(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    rest = [] if option in ("--export", "--import") else ["-p", "hi", "-m", "org/none"]
    for word in WORDS:
        assert (
            checked(lambda word=word: main([option, word, *rest]), capsys) == 2 or word[:1] == "-"
        )


def test_names_of_models(capsys: pytest.CaptureFixture[str]) -> None:
    for word in WORDS:
        checked(lambda word=word: main(["-p", "hi", "-m", word]), capsys)
        local_checkpoint(word)
    local_models(WORDS)


@pytest.mark.parametrize(
    "option", ["--mlx-path", "--hf-path", "--revision", "--q-bits", "--q-mode"]
)
def test_options_of_convert(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in WORDS:
        argv = ["--hf-path", "org/none", option, word]
        assert checked(lambda argv=argv: convert_main(argv), capsys) == 2 or word[:1] == "-"


@pytest.mark.parametrize("place", ["--folder", "QWEN35_HOME", "--budget"])
def test_places_of_the_library(
    place: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for word in WORDS:
        if word.startswith("//"):
            continue  # the root folder
        if place == "QWEN35_HOME":
            if "\0" in word or word == "\ud83d":
                continue  # which no variable can hold
            monkeypatch.setenv("QWEN35_HOME", word)
            checked(lambda: main(["--list"]), capsys)
            with suppress(Qwen35Error):
                settings_file()
        elif place == "--folder":
            checked(lambda word=word: session_main(["--folder", word, "info"]), capsys)
        else:
            checked(lambda word=word: session_main(["prune", "--budget", word]), capsys)


@pytest.mark.parametrize("name", [*FIELDS, *(f"sampling.{n}" for n in SAMPLING), "keys.send", "x"])
def test_settings(name: str, tmp_path: Path) -> None:
    settings = SettingsFile(tmp_path / "settings.toml", commands=SCOPE_OF)
    for word in WORDS:
        before, message = settings.settings, ""
        try:
            settings.set(name, parse_value(name, word))
        except Qwen35Error as error:
            message = str(error)
        assert not message or settings.settings == before
        assert "\n" not in message
        assert SettingsFile(settings.file, commands=SCOPE_OF).load() == settings.settings


@pytest.mark.parametrize(
    "text", ["max_tokens = " + "7" * 5000, "folders = " + "[" * 5000, "\0", "="]
)
def test_the_text_of_the_settings_file(text: str, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(text)
    with pytest.raises(Qwen35Error, match="correct it, or remove the file"):
        SettingsFile(tmp_path / "settings.toml", commands=SCOPE_OF).load()


@pytest.mark.parametrize("folder", ["~nobody-of-this-name", "a" * 300, "x\0y"])
def test_a_folder_that_is_no_path_is_not_stored(folder: str) -> None:
    with pytest.raises(Qwen35Error):
        parse_value("folders", f"models, {folder}")


def test_a_pipe_as_the_settings_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "settings.toml")
    with pytest.raises(Qwen35Error, match="not a regular file"):
        SettingsFile(tmp_path / "settings.toml", commands=SCOPE_OF).load()


def test_a_wrong_variable_of_the_hub_leaves_a_list_of_models() -> None:
    code = "from qwen35_chat.models import local_models; local_models(('~nobody-of-this-name',))"
    environment = os.environ | {"HF_HUB_DOWNLOAD_TIMEOUT": "soon"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_completion() -> None:
    for word in WORDS:
        for text in (word, f"/{word}", f"@{word}", f'see @"{word}', f"/settings {word}"):
            completion.commands_for(text)
            completion.files_for(text, [word, "a b"])


# Commands without a word, and those after which plain mode waits for the engine.
WAITS = ("new", "model", "unload", "help", "retry", "edit", "compact", "copy", "code")


def test_slash_commands_in_plain_mode(tmp_path: Path) -> None:
    arguments = ["{}", *(f"{name} {{}}" for name in (*FIELDS, "sampling.top_k", "keys.send"))]
    lines = [
        f"/{name} {argument.replace('{}', word)}"
        for word in EXOTIC
        if not {"\r", "\u2028"} & {*word}
        for name in BY_SLASH
        if name not in ("quit", *WAITS)
        for argument in (arguments if name == "settings" else arguments[:1])
    ]
    output = plain("\n".join(lines).encode(), "utf-8:strict")
    assert is_clean(output)


@pytest.mark.parametrize("encoding", ["utf-8:strict", "utf-8:surrogateescape", "ascii:strict"])
def test_input_that_is_no_text_in_plain_mode(encoding: str) -> None:
    words = (b"\xff", b"\xc3\xa9", b"\0", b"\xed\xa0\xbd")
    plain(b"".join(b"/system %b\n/export %b\n" % (word, word) for word in words), encoding)


def plain(lines: bytes, encoding: str) -> str:
    """The output of plain mode, which takes all lines and ends as it should."""
    done = subprocess.run(
        [sys.executable, "-m", "qwen35_chat.main", "--plain", "--fake"],
        input=lines + b"\n/settings\n",
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=60,
    )
    assert done.stderr.decode()[:300] == ""
    assert done.returncode == 0
    output = done.stdout.decode()
    assert "The file:" in output.splitlines()[-2]
    return output


def test_a_byte_order_mark_is_no_part_of_the_first_line_in_plain_mode() -> None:
    assert "\ufeff" not in plain(b"\xef\xbb\xbfhello\n", "utf-8:strict")
    assert "there is no command" not in plain(b"\xef\xbb\xbf/settings\n", "utf-8:strict")
