"""Results of tools, matched by the ids of their calls in every interface."""

from typing import Any

import pytest

from qwen35_mlx.server import chat_completions, messages, response_input
from qwen35_mlx.server.errors import ApiError

HI = {"role": "user", "content": "Hi"}
Items = list[dict[str, Any]]


def chat_call(*ids: str | None) -> Items:
    function = {"name": "f", "arguments": "{}"}
    calls = [{"id": one, "type": "function", "function": function} for one in ids]
    return [{"role": "assistant", "content": None, "tool_calls": calls}]


def chat_result(call_id: str | None, text: str = "r") -> Items:
    return [{"role": "tool", "tool_call_id": call_id, "content": text}]


def response_call(*ids: str) -> Items:
    call = {"type": "function_call", "name": "f", "arguments": "{}"}
    return [{**call, "call_id": one} for one in ids]


def response_result(call_id: str, text: str = "r") -> Items:
    return [{"type": "function_call_output", "call_id": call_id, "output": text}]


def block_call(*ids: str) -> Items:
    uses = [{"type": "tool_use", "id": one, "name": "f", "input": {}} for one in ids]
    return [{"role": "assistant", "content": uses}]


def block_result(call_id: str, text: str = "r") -> Items:
    block = {"type": "tool_result", "tool_use_id": call_id, "content": text}
    return [{"role": "user", "content": [block]}]


# read, the field of messages, a call, a result, and the field with its id
INTERFACES = {
    "chat": (chat_completions.read, "messages", chat_call, chat_result, "tool_call_id"),
    "responses": (response_input.read, "input", response_call, response_result, "call_id"),
    "messages": (messages.read, "messages", block_call, block_result, "content[0].tool_use_id"),
}


@pytest.fixture(params=INTERFACES)
def interface(request):
    return INTERFACES[request.param]


def results(found: Any) -> list[str]:
    return [one["content"] for one in found.request.messages if one["role"] == "tool"]


def test_a_result_of_an_unknown_call_is_refused_and_named(interface):
    read, name, call, result, field = interface
    for before in ([HI], [HI, *call("c1")]):
        with pytest.raises(ApiError, match="is 'lost': no call before it has this id") as error:
            read({name: [*before, *result("lost")]})
        assert error.value.status == 400
        assert error.value.param == f"{name}[{len(before)}].{field}"


def test_a_call_has_one_result(interface):
    read, name, call, result, _ = interface
    once = [HI, *call("c1"), *result("c1")]
    assert results(read({name: once})) == ["r"]
    with pytest.raises(ApiError, match="is 'c1': no call before it has this id and no result yet"):
        read({name: [*once, *result("c1")]})


def test_ids_that_every_reply_uses_again_are_matched_in_each(interface):
    read, name, call, result, _ = interface
    rounds = [*call("0", "1"), *result("1", "b"), *result("0", "a")]
    again = [*call("1", "0"), *result("0", "d"), *result("1", "c")]
    assert results(read({name: [HI, *rounds, *again]})) == ["a", "b", "c", "d"]


def test_a_message_between_a_call_and_its_result_parts_them_not(interface):
    read, name, call, result, _ = interface
    assert results(read({name: [HI, *call("c1"), HI, *result("c1")]})) == ["r"]


def test_a_session_may_hold_the_call_but_not_one_that_the_messages_lack(interface):
    read, name, call, result, _ = interface
    found = read({name: [*result("stored", "a"), *result("too", "b")], "session": "Trip"})
    assert results(found) == ["a", "b"]
    with pytest.raises(ApiError, match="is 'lost'"):
        read({name: [HI, *call("c1"), *result("lost")], "session": "Trip"})


def test_results_without_ids_keep_their_order():
    """Some local clients leave the ids out."""
    sent = [HI, *chat_call(None, None), *chat_result(None, "a"), *chat_result(None, "b")]
    assert results(chat_completions.read({"messages": sent})) == ["a", "b"]
    mixed = [HI, *chat_call("c1"), *chat_result(None, "b"), *chat_result("c1", "a")]
    assert results(chat_completions.read({"messages": mixed})) == ["a", "b"]
