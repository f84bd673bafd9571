"""A reply ends at a stop string in its answer, not in its thinking or its calls."""

import pytest

from qwen35_mlx.text.reply_end import ReplyEnd
from qwen35_mlx.text.reply_events import Answer, ReplyEvent, Thinking, ToolCall, join_events

CALL = ToolCall("f", {"x": "a STOP"})


def passed(end: ReplyEnd, *pieces: ReplyEvent) -> list[ReplyEvent]:
    return [event for piece in pieces for event in end.push([piece])] + end.finish([])


def test_thinking_and_calls_may_have_a_stop_string():
    end = ReplyEnd(["STOP"])
    events = [Thinking("a STOP"), Thinking(" more"), Answer("so"), CALL, Answer("done")]
    assert passed(end, *events) == events
    assert not end.reached
    assert end.stop is None


@pytest.mark.parametrize("size", range(1, 8))
def test_the_answer_ends_before_it_and_nothing_follows(size):
    end, text = ReplyEnd(["STOP"]), "one STO two STOP three"
    answer = [Answer(text[i : i + size]) for i in range(0, len(text), size)]
    found = passed(end, Thinking("STOP"), *answer, CALL, Answer("STOP"))
    content = join_events(found)
    assert (content.thinking, content.text, content.tool_calls) == ("STOP", "one STO two", ())
    assert end.reached
    assert end.stop == "STOP"


def test_none_begins_in_the_thinking_or_before_a_call_and_ends_behind_it():
    end = ReplyEnd(["STOP"])
    events = [Thinking("so ST"), Answer("OP ST"), CALL, Answer("OP")]
    found = passed(end, *events)
    assert join_events(found) == join_events(events)
    assert found[2:] == [Answer("ST"), CALL, Answer("OP")]
    assert not end.reached


def test_one_call_ends_the_reply_with_what_was_held_back_before_it():
    end = ReplyEnd(["STOP"], one_call=True)
    assert passed(end, Answer("a ST"), CALL, CALL, Answer("b")) == [
        Answer("a "),
        Answer("ST"),
        CALL,
    ]
    assert end.reached
    assert end.stop is None


def test_what_is_pending_is_cut_alike_and_changes_nothing():
    end = ReplyEnd(["STOP"])
    assert end.push([Answer("a ST")]) == [Answer("a ")]
    assert join_events(end.pending([Answer("OP b")])).text == ""
    assert join_events(end.pending([Answer("AND")])).text == "STAND"
    assert not end.reached
    assert end.finish([Answer("OP b")]) == []
    assert end.stop == "STOP"
