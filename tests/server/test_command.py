"""`qwen35-chat serve`: its options, and lines for what goes wrong."""

import signal
import socket
import subprocess
import sys
import time
from contextlib import nullcontext, suppress
from functools import partial

import httpx2
import pytest
from qwen35_chat.main import main as chat_main

from qwen35_mlx.server import command
from qwen35_mlx.server.options import ServerOptions
from tests.server.serving import start_server


def error_line(capsys, code: int) -> str:
    assert code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--host", "0.0.0.0"], "--host 0.0.0.0 lets other machines in, and there is no API key"),
        (["--port", "70000"], "'70000' is not a whole number from 0 to 65535"),
        (["--idle", "soon"], "'soon' is not a time such as 90s, 10m or 1h"),
        (["--idle", "0m"], "'0m' is not a time such as 90s, 10m or 1h"),
        (["--cors", "example.org"], "'example.org' is not an origin such as https://example.org"),
        (["--cors", "https://a.b/c"], "'https://a.b/c' is not an origin"),
        (["--parallel", "0"], "'0' is not a whole number of 1 or more"),
        (["--split", "pipeline"], "--split pipeline is for several machines: give --hosts, too"),
        (["--hosts", "./no.json"], "no.json"),
        (["--api-key", ""], "the API key is empty: give some text, or leave it out"),
        (["--model", " "], "--model is empty"),
        (["--wrong"], "unrecognized arguments: --wrong; see qwen35-chat serve --help"),
        (["--host", "192.0.2.1", "--api-key", "k"], "the server cannot listen on 192.0.2.1"),
        (["--host", "a..b", "--api-key", "k"], "the server cannot listen on a..b, port 8080 (this"),
        (["--host", "no.such.name.invalid", "--api-key", "k"], "the server cannot listen on no."),
        (["--port", "0", "--model", "./no-model"], "no-model"),
    ],
)
def test_what_does_not_fit_is_one_line(words, line, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path))
    monkeypatch.delenv(command.API_KEY, raising=False)
    assert line in error_line(capsys, chat_main(["serve", *words]))


def test_a_port_in_use_is_one_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("QWEN35_HOME", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        line = error_line(capsys, command.main(["--port", str(port)]))
    assert f"port {port} is in use: stop the program that uses it, or give another --port" in line


def test_help_names_what_the_server_needs(capsys):
    with pytest.raises(SystemExit):
        chat_main(["serve", "--help"])
    text = capsys.readouterr().out
    for option in ("--model", "--adapter-path", "--mtp", "--host", "--port", "--api-key", "--idle"):
        assert option in text


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("10m", 600), ("1h", 3600), ("5", 5)])
def test_times(text, seconds):
    assert command._seconds(text) == seconds


def test_the_key_is_not_printed(monkeypatch):
    """A key of the command line is in no variable that curl could read."""
    monkeypatch.setenv(command.API_KEY, "other")
    lines = command.greeting(ServerOptions(name="demo", api_key="secret"), 80)
    assert '-H "Authorization: Bearer YOUR-API-KEY"' in lines[1]
    monkeypatch.setenv(command.API_KEY, "secret")
    lines = command.greeting(ServerOptions(name="demo", host="::1", api_key="secret"), 80)
    assert "secret" not in "".join(lines)
    assert "http://[::1]:80/v1" in lines[0]
    assert '-H "Authorization: Bearer $QWEN35_API_KEY"' in lines[1]


def test_clients_do_not_see_paths(model_folder):
    assert command.public_name(str(model_folder)) == model_folder.name
    assert command.public_name("org/repo") == "org/repo"
    assert command.public_name("demo") == "demo"


def test_a_broken_model_is_told_to_the_client(tmp_path, monkeypatch):
    """The server is up before the model is loaded; the key comes from the environment."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    monkeypatch.setenv(command.API_KEY, "k")
    server = start_server(tmp_path / "home", "--model", str(folder))
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    url = f"{server.address}/v1/chat/completions"
    refused = httpx2.post(url, json=body)
    found = httpx2.post(url, json=body, headers={"x-api-key": "k"}, timeout=60)
    assert refused.status_code == 401
    assert found.status_code == 500
    assert "config.json" in found.json()["error"]["message"]
    assert server.stop(signal.SIGTERM) == 0
    assert server.lines[-1].startswith("Stopped: ")


@pytest.mark.parametrize("signals", [[signal.SIGTERM], [signal.SIGHUP], [signal.SIGINT] * 2])
def test_a_signal_ends_a_long_reply_with_an_error(signals):
    """At once if it comes twice."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.server.scripted_child", "60"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it
    )
    assert process.stdout is not None
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}/v1/chat/completions"
    body = {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with httpx2.stream("POST", url, json=body, timeout=60) as response:
        lines = response.iter_lines()
        assert next(lines).startswith("data: ")
        for one in signals:
            process.send_signal(one)
            time.sleep(0.3)
        # Two signals may close the connection before the error is sent.
        with suppress(httpx2.HTTPError) if len(signals) > 1 else nullcontext():
            rest = "".join(lines)
            assert len(signals) > 1 or "the server is closing" in rest
    assert process.communicate(timeout=20)[1] == ""
    assert process.returncode == 0
