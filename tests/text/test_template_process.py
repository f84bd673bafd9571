"""Templates that loop, grow or write without end are stopped, and the next one runs."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from qwen35_mlx.child_process import child_environment
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text import template_process as module
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.template_process import (
    OUT_OF_MEMORY,
    LimitError,
    Outcome,
    TemplateProcess,
)

HELLO = [{"role": "user", "content": "Hello"}]
ENDLESS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
GROWING = (
    "{% set n = namespace(a='aa') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}"
)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 1.5)
    monkeypatch.setattr(module, "MAX_OUTPUT", 1 << 20)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(
    ("source", "words"),
    [
        (ENDLESS, "does not finish within 1.5 seconds"),
        ("{% macro f() %}" + ENDLESS + "{% endmacro %}{{ f() }}", "does not finish"),
        (GROWING, r"MemoryError|does not finish"),
        ("{{ 'a' * 10 ** 12 }}", "MemoryError"),
        ("{{ 'a'.ljust(10 ** 12) }}", "MemoryError"),
        ("{{ messages | tojson | center(10 ** 12) }}", "MemoryError"),
        ("{{ 9 ** (9 ** 9) }}", r"does not finish|MemoryError|cannot be compiled"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ 'a' * 2 ** 21 }}", "writes more than 1 MiB"),
    ],
)
def test_a_template_is_stopped_at_a_limit(source: str, words: str):
    with pytest.raises(Qwen35Error, match=words) as caught:
        ChatTemplate(source, name="greedy.jinja").render(HELLO)
    assert "\n" not in str(caught.value)
    assert "greedy.jinja" in str(caught.value)
    assert ChatTemplate("{{ messages[0].content }}").render(HELLO) == "Hello"


@pytest.mark.usefixtures("hasty")
def test_a_constant_in_a_dead_branch_does_not_stop_the_load():
    source = "{% if false %}{{ 'a' * 10 ** 12 }}{% endif %}fine"
    assert ChatTemplate(source).render(HELLO) == "fine"


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("count", [1_000, 100_000])
def test_a_template_nested_without_end_is_refused(count: int):
    with pytest.raises(Qwen35Error):
        ChatTemplate("{% if true %}" * count).render(HELLO)
    with pytest.raises(Qwen35Error):
        ChatTemplate("{{ " + "(" * count + ")" * count + " }}").render(HELLO)


def test_values_nested_without_end_are_refused():
    value: list = []
    for _ in range(3_000):
        value = [value]
    with pytest.raises(LimitError, match="nested too deep"):
        module.template_process().run("{{ messages | tojson }}", {"messages": value})


def test_memory_is_watched_where_the_system_does_not_limit_it():
    code = """
import resource, sys
def refuse(*_): raise ValueError
resource.setrlimit = refuse
from qwen35_mlx.text import template_sandbox as sandbox
sandbox.limit_memory()
print(sandbox.answer("{% set n = namespace(a='a' * 9999) %}{% for i in range(17) %}"
    "{% set n.a = n.a ~ n.a %}{% endfor %}{{ 5 }}", {})[1], flush=True)
print("still here")
"""
    # Started by a shell, whose memory is small: that of the tests would count as its peak.
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == OUT_OF_MEMORY
    assert "still here" not in done.stdout


def test_the_memory_of_the_program_does_not_count():
    code = """
from qwen35_mlx.text.template_process import TemplateProcess
weights = bytearray(700 << 20)
process = TemplateProcess()
for _ in range(3):
    assert process.run("{{ a }}", {"a": "1"})[1] == "1"
process.close()
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_process_that_ends_by_itself_is_named(monkeypatch: pytest.MonkeyPatch):
    process = TemplateProcess()
    process.start()
    assert process._process is not None
    process._process.wait = lambda _=None: 3  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setattr(os, "read", lambda *_: b"")
    with pytest.raises(LimitError, match="exit code 3"):
        process.run("{{ a }}", {"a": "1"})
    monkeypatch.undo()
    process.close()


def test_a_process_that_was_killed_is_started_again():
    process = TemplateProcess()
    assert process.run("{{ a }}", {"a": "1"}) == (Outcome.TEXT, "1")
    first = process._process
    assert first is not None
    first.kill()
    first.wait()
    assert process.run("{{ a }}", {"a": "\ud800 你"}) == (Outcome.TEXT, "\ud800 你")
    process.close()
    process.close()


def test_the_process_ends_with_the_program():
    code = """
import os
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.template_process import template_process
ChatTemplate("a")
print(template_process()._process.pid, flush=True)
os._exit(9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    deadline = time.monotonic() + 20
    while _runs(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(int(done.stdout))


def _runs(pid: int) -> bool:
    """Whether a process runs; one that has ended may wait for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_fork_of_the_program_has_its_own_process():
    template = ChatTemplate("{{ messages[0].content }}")
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if template.render(HELLO) == "Hello" else 2
        finally:
            module.template_process().close()
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert template.render(HELLO) == "Hello"


def test_a_fork_of_the_program_leaves_the_process_of_its_parent_running():
    process = TemplateProcess()
    process.start()
    assert process._process is not None
    pid = process._process.pid
    child = os.fork()
    if child == 0:
        process.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert process.run("{{ a }}", {"a": "1"})[1] == "1"
    assert process._process.pid == pid
    process.close()


def test_the_program_itself_runs_no_template_code():
    code = "import sys, qwen35_mlx.session.model; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_module_of_the_current_folder_is_not_imported(tmp_path: Path, monkeypatch):
    (tmp_path / "jinja2.py").write_text("raise SystemExit(5)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    process = TemplateProcess()
    assert process.run("{{ a }}", None) == (Outcome.TEXT, "a")
    process.close()
    assert "PYTHONPATH" not in child_environment()
