"""docs/qwen35-chat.1 says what the parsers say."""

import argparse
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from qwen35_chat import man_page
from qwen35_chat.command_parser import command_parser

from qwen35_mlx.command_line import CommandParser
from qwen35_mlx.server.command import command_parser as server_parser

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "qwen35-chat.1"


def test_the_page_is_as_generated():
    """`PYTHONPATH=app python -m qwen35_chat.man_page > docs/qwen35-chat.1` renews it."""
    assert PAGE.read_text(encoding="utf-8") == man_page.man_page()


@pytest.mark.parametrize("parser", [command_parser(), server_parser("qwen35-chat serve")])
def test_the_page_names_every_option_once_and_no_hidden_one(parser: CommandParser):
    chat, server = PAGE.read_text(encoding="utf-8").split(".SH OPTIONS OF SERVE")
    page = (server if parser.prog.endswith("serve") else chat).replace(r"\-", "-")
    names = re.findall(
        r"\\fB(--[\w-]+)\\fR", "\n".join(re.findall(r"^\\fB-.*$", page, re.MULTILINE))
    )
    assert len(names) == len(set(names))
    shown = {
        name
        for action in parser.arguments
        if action.help != argparse.SUPPRESS
        for name in action.option_strings
        if name.startswith("--")
    }
    assert set(names) == shown
    assert "--fake" not in page


def test_text_of_a_help_line_is_no_roff():
    assert man_page._roff(r".so a\b 'c-d'") == r"\&.so a\eb \(aqc\-d\(aq"


@pytest.mark.skipif(shutil.which("man") is None, reason="needs man")
def test_man_renders_the_page_without_warnings():
    command = ["man", "--warnings=w", "--encoding=utf8", "-l", str(PAGE)]
    environment = {"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LANG": "C.UTF-8", "PAGER": "cat"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "QWEN35-CHAT(1)" in run.stdout


def test_the_wheel_installs_the_page_where_man_looks():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]
    shared = build["build"]["targets"]["wheel"]["shared-data"]
    assert shared[str(PAGE.relative_to(ROOT))] == "share/man/man1/qwen35-chat.1"
