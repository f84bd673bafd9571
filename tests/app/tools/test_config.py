"""`mcp.json`: what is taken, and one line for each thing that is not."""

import json
from pathlib import Path

import pytest
from qwen35_chat.tools.config import MAX_BYTES, ServerConfig, read_servers


def read(folder: Path, text: str) -> tuple[list[ServerConfig], list[str]]:
    file = folder / "mcp.json"
    file.write_text(text)
    servers, problems = read_servers(file, required=False)
    assert all("\n" not in line and str(file) in line for line in problems)
    return servers, problems


def one(folder: Path, **entry: object) -> tuple[ServerConfig | None, str]:
    """The server that an entry gives, and the lines about it."""
    servers, problems = read(folder, json.dumps({"mcpServers": {"files": entry}}))
    return servers[0] if servers else None, "\n".join(problems)


def test_a_command_and_an_address_with_all_their_fields(tmp_path: Path) -> None:
    text = """{"mcpServers": {
        "files": {"command": "npx", "args": ["-y", "x"], "env": {"A": "b"}, "cwd": "/", "type":
            "stdio", "disabled": true},
        "search": {"url": "https://example.org/mcp", "headers": {"Authorization": "Bearer x"}}}}"""
    servers, problems = read(tmp_path, text)
    assert not problems
    assert servers == [
        ServerConfig("files", "npx", ("-y", "x"), {"A": "b"}, "/", disabled=True),
        ServerConfig(
            "search", url="https://example.org/mcp", headers={"Authorization": "Bearer x"}
        ),
    ]


def test_variables_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "secret ${env:OTHER}")
    monkeypatch.setenv("HOME", "/home/ada")
    server, _ = one(
        tmp_path, command="~/bin/x", args=["${userHome}/a", "~/b"], env={"K": "k=${env:KEY}"}
    )
    assert server is not None
    assert server.command == "/home/ada/bin/x"
    assert server.args == ("/home/ada/a", "~/b")  # as without a shell
    assert server.env == {"K": "k=secret ${env:OTHER}"}  # values are not expanded again


def test_secrets_are_no_part_of_what_is_agreed_to(tmp_path: Path) -> None:
    before, _ = one(tmp_path, command="x", env={"KEY": "one"})
    after, _ = one(tmp_path, command="x", env={"KEY": "two"})
    other, _ = one(tmp_path, command="y")
    assert before is not None
    assert after is not None
    assert other is not None
    assert before.origin == after.origin != other.origin


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        ({}, "give it either a command or a url"),
        ({"args": ["x"]}, "give it either a command or a url"),
        ({"command": "x", "url": "https://y.org"}, "give it either a command or a url"),
        ({"command": ["x"]}, "command must be text in quotes"),
        ({"command": "x", "args": "y"}, "args must be a list of texts in quotes"),
        ({"command": "x", "env": {"A": 1}}, "env must be an object of texts in quotes"),
        ({"command": "x", "headers": {}}, "headers does not go with command"),
        ({"command": "x", "cwd": "/nowhere/at/all"}, "its folder /nowhere/at/all does not exist"),
        ({"command": "x", "type": "http"}, "its type is http, and it has a command"),
        ({"url": "file:///etc"}, "is no address that begins with https:// or http://"),
        ({"url": "https://y.org/sse", "type": "sse"}, "the transport sse is out of use"),
        ({"command": "${input:key}"}, "${input:key} is not known here"),
        ({"command": "x", "env": {"A": "${env:NOT_SET}"}}, "no variable NOT_SET"),
    ],
)
def test_a_server_that_cannot_be_used_is_left_out(
    entry: dict[str, object], line: str, tmp_path: Path
) -> None:
    server, problem = one(tmp_path, **entry)
    assert server is None
    assert line in problem
    assert problem.endswith("it is left out")


def test_a_field_that_is_not_known_is_named_and_ignored(tmp_path: Path) -> None:
    server, problem = one(tmp_path, command="x", arg=["y"], autoApprove=["read"])
    assert server == ServerConfig("files", "x")
    assert "arg is not a field: did you mean args?" in problem
    assert "autoApprove is not a field: it is ignored" in problem


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "it is not JSON"),
        ("[]", 'it has no object "mcpServers"'),
        ('{"mcpServers": []}', 'it has no object "mcpServers"'),
        ('{"mcpServers": {"a": {"command": "x", "command": "y"}}}', "a key appears twice"),
        (json.dumps({"mcpServers": {str(n): {} for n in range(65)}}), "more than 64 servers"),
        (" " * (MAX_BYTES + 1), "it has more than"),
    ],
)
def test_a_damaged_file_gives_no_servers(text: str, line: str, tmp_path: Path) -> None:
    servers, (problem,) = read(tmp_path, text)
    assert not servers
    assert line in problem


def test_the_name_of_the_built_in_tools_is_taken(tmp_path: Path) -> None:
    servers, (problem,) = read(tmp_path, '{"mcpServers": {"folder": {"command": "x"}}}')
    assert not servers
    assert "its name is that of the built-in tools" in problem


def test_only_a_file_that_was_named_must_exist(tmp_path: Path) -> None:
    assert read_servers(tmp_path / "mcp.json", required=False) == ([], [])
    _, (problem,) = read_servers(tmp_path / "mcp.json", required=True)
    assert problem.endswith("mcp.json does not exist: check the path")
