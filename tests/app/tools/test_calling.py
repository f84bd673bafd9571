"""The calls of one reply: who is asked, in what order they run, and what the model gets."""

from concurrent.futures import Future
from pathlib import Path

import pytest
from qwen35_chat.tools.calling import MAX_ROUNDS, Answer, Calling, CallQuestion, RoundsQuestion
from qwen35_chat.tools.calls import ToolResult
from qwen35_chat.tools.toolbox import Toolbox

from qwen35_mlx.text.reply import ToolCall
from tests.app.drive import Clock
from tests.app.tools.drive import ScriptedServer, toolbox

READ = ToolCall("files__read", {"path": "a"})
WRITE = ToolCall("files__write", {"path": "b"})


@pytest.fixture
def files() -> ScriptedServer:
    return ScriptedServer("files", "read", "write")


@pytest.fixture
def tools(files: ScriptedServer, tmp_path: Path) -> Toolbox:
    return toolbox(files, file=tmp_path / "tools.json")


def calling(tools: Toolbox, *calls: ToolCall, rounds: int = 1) -> Calling:
    return Calling(calls, tools, rounds, Clock())


def asked(at: Calling) -> str:
    """The tool that the question is about."""
    assert isinstance(at.question, CallQuestion)
    return at.question.tool.name


def test_no_call_runs_before_it_is_allowed(tools: Toolbox, files: ScriptedServer) -> None:
    at = calling(tools, READ)
    for _ in range(3):
        assert at.step() == []
    assert asked(at) == "read"
    assert not files.calls
    at.answer("once")
    assert files.calls == [("read", {"path": "a"})]
    files.futures[0].set_result(ToolResult("text"))
    (ended,) = at.step()
    assert (ended.name, ended.text) == ("files__read", "text")
    assert at.done
    assert at.results == ["text"]


def test_one_call_runs_after_the_other_and_each_is_asked_about(
    tools: Toolbox, files: ScriptedServer
) -> None:
    at = calling(tools, READ, WRITE)
    at.step()
    at.answer("once")
    assert at.step() == []
    assert at.question is None
    files.futures[0].set_result(ToolResult("text"))
    at.step()
    assert asked(at) == "write"
    assert [name for name, _ in files.calls] == ["read"]


def test_once_holds_for_one_call_and_always_for_all_later_ones(
    tools: Toolbox, files: ScriptedServer
) -> None:
    at = calling(tools, READ, READ, READ, WRITE)
    at.step()
    at.answer("once")
    files.futures[0].set_result(ToolResult("1"))
    at.step()
    assert asked(at) == "read"
    at.answer("always")
    files.futures[1].set_result(ToolResult("2"))
    at.step()
    assert at.question is None
    files.futures[2].set_result(ToolResult("3"))
    at.step()
    assert asked(at) == "write"


@pytest.mark.parametrize("answer", ["no", "never"])
def test_a_call_that_is_refused_does_not_run_and_the_model_learns_it(
    answer: Answer, tools: Toolbox, files: ScriptedServer
) -> None:
    at = calling(tools, READ)
    at.step()
    at.answer(answer)
    at.step()
    assert not files.calls
    assert at.results == ["Error: the user does not allow this call"]
    offered = [offer.name for offer in tools.offered()]
    assert ("files__read" in offered) == (answer == "no")


def test_a_tool_that_never_runs_is_not_asked_about(tools: Toolbox, files: ScriptedServer) -> None:
    tool = tools.find("files__read")
    assert tool is not None
    tools.allow(tool, "never")
    at = calling(tools, READ)
    at.step()
    assert at.results == ["Error: there is no such tool"]
    assert not files.calls


@pytest.mark.parametrize("name", ["read", "files__delete", "files__read ", "", "FILES__READ"])
def test_a_name_that_is_not_offered_runs_nothing(
    name: str, tools: Toolbox, files: ScriptedServer
) -> None:
    at = calling(tools, ToolCall(name, {}))
    at.step()
    assert at.results == ["Error: there is no such tool"]
    assert not files.calls


def test_an_error_of_a_tool_goes_to_the_model(tools: Toolbox, files: ScriptedServer) -> None:
    at = calling(tools, READ)
    at.step()
    at.answer("once")
    files.futures[0].set_result(ToolResult("no such file", error=True))
    at.step()
    assert at.results == ["Error: no such file"]


def test_stop_gives_up_on_the_tool_and_runs_no_other(tools: Toolbox, files: ScriptedServer) -> None:
    at = calling(tools, READ, READ, WRITE)
    at.step()
    at.answer("always")
    files.futures[0].set_result(ToolResult("1"))
    at.step()
    at.stop()
    assert files.futures[1].cancelled()
    at.step()
    assert at.done
    assert at.results == [
        "1",
        "Error: the user stopped this call",
        "Error: this call was not run, since the user stopped the turn",
    ]
    assert len(files.calls) == 2


def test_stop_at_a_question_runs_nothing(tools: Toolbox, files: ScriptedServer) -> None:
    at = calling(tools, READ)
    at.step()
    at.stop()
    at.step()
    assert at.question is None
    assert at.done
    assert not files.calls


def test_an_answer_that_comes_too_late_runs_nothing(tools: Toolbox, files: ScriptedServer) -> None:
    at = calling(tools, READ)
    at.step()
    at.stop()
    at.answer("always")
    at.step()
    assert not files.calls
    assert [offer for offer in tools.offered() if tools.permissions.of(offer.tool) != "ask"] == []


def test_after_many_rounds_the_user_decides(tools: Toolbox, files: ScriptedServer) -> None:
    assert calling(tools, READ, rounds=MAX_ROUNDS - 1).question is None
    at = calling(tools, READ, rounds=MAX_ROUNDS)
    assert at.question == RoundsQuestion(MAX_ROUNDS)
    assert at.step() == []
    at.answer("once")
    at.step()
    assert asked(at) == "read"
    at = calling(tools, READ, rounds=2 * MAX_ROUNDS)
    at.answer("no")
    at.step()
    assert at.stopped
    assert at.done


def test_a_future_that_the_server_cancels_is_an_error(
    tools: Toolbox, files: ScriptedServer
) -> None:
    at = calling(tools, READ)
    at.step()
    at.answer("once")
    files.futures[0].cancel()
    at.step()
    assert at.results[0].startswith("Error: ")


def test_names_for_the_model_are_plain_and_differ(tmp_path: Path) -> None:
    tools = toolbox(
        ScriptedServer("my files", "read a", "read-a"), ScriptedServer("my_files", "read a")
    )
    names = [offer.name for offer in tools.offered()]
    assert names == ["my_files__read_a", "my_files__read-a", "my_files__read_a_2"]
    second = tools.find("my_files__read_a_2")
    assert second is not None
    assert second.server == "my_files"


def test_a_server_that_is_off_offers_nothing(tools: Toolbox, files: ScriptedServer) -> None:
    tools.switch("files", on=False)
    assert tools.offered() == ()
    at = calling(tools, READ)
    at.step()
    assert at.results == ["Error: there is no such tool"]
    tools.switch("files", on=True)
    assert len(tools.offered()) == 2


def test_what_is_offered_is_the_same_object_until_it_changes(tools: Toolbox) -> None:
    before = tools.offered()
    assert tools.offered() is before
    tools.allow(before[0].tool, "always")
    assert tools.offered() == before


def test_a_result_that_is_set_late_is_ignored() -> None:
    future: Future[ToolResult] = Future()
    files = ScriptedServer("files", "read")
    tools = toolbox(files)
    at = calling(tools, READ)
    at.step()
    at.answer("once")
    future = files.futures[0]
    assert future.set_running_or_notify_cancel()  # it cannot be cancelled any more
    at.stop()
    at.step()
    assert at.results == ["Error: the user stopped this call"]
    future.set_result(ToolResult("late"))
    assert at.results == ["Error: the user stopped this call"]
