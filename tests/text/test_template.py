"""Rendering: the environment of templates, their input, and errors."""

import json
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.text_files import TextFiles

HELLO = [{"role": "user", "content": "Hello"}]
CALL = {
    "type": "function",
    "function": {"name": "add", "arguments": {"a": 1, "note": "line 1\nline 2"}},
}


def render(source: str, messages: Any = HELLO, **options: Any) -> str:
    return ChatTemplate(source).render(messages, **options)


def error_of(source: str, messages: Any = HELLO, **options: Any) -> str:
    with pytest.raises(Qwen35Error) as caught:
        render(source, messages, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


# The environment


def test_a_conversation_renders_to_turns(template: ChatTemplate):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2", "reasoning_content": "old thought"},
        {"role": "user", "content": "And 2 + 2?"},
    ]
    assert template.render(messages) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n1 + 1?<|im_end|>\n"
        "<|im_start|>assistant\n2<|im_end|>\n"
        "<|im_start|>user\nAnd 2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_no_generation_prompt_on_request(template: ChatTemplate):
    rendered = template.render(HELLO, add_generation_prompt=False)
    assert rendered == "<|im_start|>user\nHello<|im_end|>\n"


def test_a_block_tag_leaves_no_empty_line():
    assert render("a\n  {% if true %}\nb\n  {% endif %}\nc\n") == "a\nb\nc"


def test_tojson_keeps_the_order_and_escapes_no_html():
    tools = [{"z": "<b> & 'é'", "a": [1, None, True]}]
    expected = """{"z": "<b> & 'é'", "a": [1, null, true]}"""
    assert render("{{ tools[0] | tojson }}", tools=tools) == expected


def test_tojson_options():
    tools = [{"b": 1, "a": 2}]
    source = "{{ tools[0] | tojson(indent=1, sort_keys=true, separators=(',', ':')) }}"
    assert render(source, tools=tools) == '{\n "a":2,\n "b":1\n}'


def test_message_text_is_not_escaped():
    assert render("{{ messages[0].content }}", [{"role": "user", "content": "<&>"}]) == "<&>"


def test_loop_controls():
    source = "{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"
    assert render(source) == "012"


def test_a_generation_block_renders_its_body_in_its_own_scope():
    source = "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}"
    assert render(source) == "21"


def test_strftime_now():
    assert re.fullmatch(r"\d{4}", render("{{ strftime_now('%Y') }}"))


def test_thinking_is_true_false_or_undefined():
    source = "{{ enable_thinking if enable_thinking is defined else 'undefined' }}"
    assert render(source, thinking=True) == "True"
    assert render(source, thinking=False) == "False"
    assert render(source) == "undefined"


def test_special_tokens_are_variables_if_set():
    source = "{{ bos_token is defined }} {{ eos_token }}"
    assert ChatTemplate(source, eos_token="<eos>").render(HELLO) == "False <eos>"


def test_tools_are_none_by_default():
    assert render("{{ tools is none }}") == "True"


def test_templates_run_in_a_sandbox():
    assert "SecurityError" in error_of("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    assert "SecurityError" in error_of("{{ messages.append(1) }}")


# Messages and tools


def test_call_arguments_as_json_text_become_a_mapping(template: ChatTemplate):
    arguments = json.dumps(CALL["function"]["arguments"])
    as_text = {"type": "function", "function": {"name": "add", "arguments": arguments}}
    asks = [*HELLO, {"role": "assistant", "content": "", "tool_calls": [as_text]}]
    expected = (
        "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n"
        "<parameter=note>\nline 1\nline 2\n</parameter>\n</function>\n</tool_call>"
    )
    assert expected in template.render(asks)
    asks[-1]["tool_calls"] = [CALL]
    assert expected in template.render(asks)


@pytest.mark.parametrize("arguments", [None, "", " ", {}, "{}"])
def test_a_call_without_arguments_has_an_empty_mapping(arguments: object):
    call = {"name": "now", "arguments": arguments}
    messages = [*HELLO, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert render("{{ messages[1].tool_calls[0].arguments }}", messages) == "{}"


def test_missing_content_is_empty_beside_calls_or_reasoning():
    source = "[{{ messages[1].content }}]"
    for extra in ({"tool_calls": [CALL]}, {"reasoning_content": "so"}):
        assert render(source, [*HELLO, {"role": "assistant", **extra}]) == "[]"
        assert render(source, [*HELLO, {"role": "assistant", "content": None, **extra}]) == "[]"


def test_content_may_be_a_list_of_parts():
    parts = ({"type": "text", "text": "Hi"}, {"text": " there"})
    source = "{{ messages[0].content }}"
    assert render(source, [{"role": "user", "content": parts}]) == "Hi there"


def test_any_mapping_and_string_type_becomes_plain():
    class Role(StrEnum):
        USER = "user"

    message = MappingProxyType({"role": Role.USER, "content": "Hi"})
    assert render("{{ messages[0] | tojson }}", (message,)) == '{"role": "user", "content": "Hi"}'
    assert render("{{ messages[0].role.name is defined }}", (message,)) == "False"


def test_rendering_does_not_change_the_messages():
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [*HELLO, {"role": "assistant", "tool_calls": [call]}]
    before = json.dumps(messages)
    render("{{ messages | tojson }}", messages)
    assert json.dumps(messages) == before


# Errors


def test_a_refusal_has_the_templates_message():
    source = "{{ raise_exception('The system message comes first.') }}"
    assert "refuses this conversation: 'The system message comes first.';" in error_of(source)


def test_a_syntax_error_is_named_with_its_line():
    with pytest.raises(Qwen35Error, match="broken at line 2 "):
        ChatTemplate("fine\n{% if %}")


@pytest.mark.parametrize(
    "source",
    [
        "{{ nothing.at_all }}",
        "{{ 1 / 0 }}",
        "{{ range(10 ** 9) | list }}",
        "{{ nothing | tojson }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    ],
)
def test_the_error_of_a_failing_template_is_one_line(source: str):
    assert "take the chat template of the original checkpoint" in error_of(source)


def test_the_error_of_a_template_that_python_cannot_compile_is_one_line():
    with pytest.raises(Qwen35Error, match="cannot be compiled") as caught:
        ChatTemplate("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("Hello", "messages[1] is of type str"),
        ({"content": "x"}, "messages[1] has no 'role'"),
        ({"role": "", "content": "x"}, "messages[1] has no 'role'"),
        ({"role": "user"}, "messages[1] (role 'user') has no 'content'"),
        ({"role": "user", "content": None}, "has no 'content'"),
        ({"role": "assistant"}, "has no 'content'"),
        ({"role": "user", "content": 3}, "has 'content' of type int"),
        ({"role": "user", "content": b"x"}, "messages[1].content is of type bytes"),
        (
            {"role": "user", "content": [{"text": {1}}]},
            "messages[1].content[0].text is of type set",
        ),
        ({"role": "assistant", "tool_calls": "f"}, "'tool_calls' that are not a list"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "without a function 'name'"),
        ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}, "are not JSON"),
        (
            {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]},
            "are of type list",
        ),
    ],
)
def test_a_bad_message_is_named(message: object, words: str):
    assert words in error_of("", [*HELLO, message])


@pytest.mark.parametrize("tools", [["f"], {"name": "f"}, "f"])
def test_bad_tools_are_named(tools: object):
    assert "tools is not a list of mappings" in error_of("", tools=tools)


# Files


def write(path: Path, **files: object) -> Path:
    for stem, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        name = f"{stem}.jinja" if isinstance(content, str) else f"{stem}.json"
        (path / name).write_text(text)
    return path


def rendered_from(path: Path) -> str:
    template = ChatTemplate.from_files(TextFiles.from_folder(path))
    assert template is not None
    return template.render(HELLO)


def test_the_jinja_file_comes_before_the_json_files(tmp_path: Path):
    write(tmp_path, tokenizer_config={"chat_template": "config"})
    assert rendered_from(tmp_path) == "config"
    (tmp_path / "chat_template.json").write_text('{"chat_template": "json"}')
    assert rendered_from(tmp_path) == "json"
    write(tmp_path, chat_template="jinja")
    assert rendered_from(tmp_path) == "jinja"


def test_a_json_file_without_a_template_is_skipped(tmp_path: Path):
    write(tmp_path, tokenizer_config={"chat_template": "config"}, chat_template={"other": 1})
    assert rendered_from(tmp_path) == "config"


def test_the_default_of_several_named_templates_is_used(tmp_path: Path):
    named: list[Mapping[str, str]] = [
        {"name": "rag", "template": "rag"},
        {"name": "default", "template": "yes"},
    ]
    write(tmp_path, tokenizer_config={"chat_template": named})
    assert rendered_from(tmp_path) == "yes"


def test_the_error_lists_named_templates_without_a_default(tmp_path: Path):
    write(tmp_path, tokenizer_config={"chat_template": [{"name": "rag", "template": "x"}]})
    with pytest.raises(Qwen35Error, match=r"called 'default' \(there: 'rag'\)"):
        ChatTemplate.from_files(TextFiles.from_folder(tmp_path))


def test_templates_by_name_are_read_as_a_list_of_them_is(tmp_path: Path):
    named = {"rag": "rag", "default": "yes"}
    write(tmp_path, tokenizer_config={"chat_template": named})
    assert rendered_from(tmp_path) == "yes"


@pytest.mark.parametrize("entry", [None, "", " \n", [], {}, [{"name": "default", "template": ""}]])
def test_an_empty_template_is_none(tmp_path: Path, entry: object):
    write(tmp_path, tokenizer_config={"chat_template": entry})
    assert ChatTemplate.from_files(TextFiles.from_folder(tmp_path)) is None


def test_an_empty_file_does_not_hide_another_template(tmp_path: Path):
    write(tmp_path, chat_template="\n", tokenizer_config={"chat_template": "config"})
    assert rendered_from(tmp_path) == "config"


def test_a_folder_without_a_template_has_none(tmp_path: Path):
    assert ChatTemplate.from_files(TextFiles.from_folder(tmp_path)) is None


def test_error_for_a_template_that_is_not_text(tmp_path: Path):
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(Qwen35Error, match=r"chat_template\.jinja cannot be read"):
        ChatTemplate.from_files(TextFiles.from_folder(tmp_path))


def test_special_tokens_come_from_tokenizer_config(tmp_path: Path):
    config = {"bos_token": None, "eos_token": {"content": "<|im_end|>"}}
    write(tmp_path, chat_template="{{ bos_token }}|{{ eos_token }}", tokenizer_config=config)
    assert rendered_from(tmp_path) == "|<|im_end|>"


# Thinking


@pytest.mark.parametrize(("thinking", "opens"), [(True, True), (False, False), (None, False)])
def test_the_thinking_option_opens_a_block(
    template: ChatTemplate, thinking: bool | None, opens: bool
):
    assert template.opens_thinking(template.render(HELLO, thinking=thinking)) is opens


@pytest.mark.parametrize(
    ("prompt", "opens"),
    [
        ("<|im_start|>user\nwhat is <think>?<|im_end|>\n<|im_start|>assistant\n", False),
        ("<|im_start|>user\n<think>\nthis through", False),
        ("<|im_start|>user\n</think><|im_end|>\n<|im_start|>assistant\n<think>\n", True),
        ("<|im_start|>assistant\n<think>\nhalf a thou", True),
        ("<|im_start|>assistant\n<think>\n\n</think>\n\nThe tag <think>", False),
        ("<|im_start|>assistant\nThe tag <think>", False),
        ("<|im_start|>assistant\n<think>\ncut off<|im_end|>\n", False),
        ("[INST] Hello [/INST]<think>\n", True),
        ("[INST] <think> is a tag [/INST]", False),
        ("", False),
    ],
)
def test_only_a_block_at_the_start_of_the_last_turn_counts(prompt: str, opens: bool):
    assert ChatTemplate.opens_thinking(prompt) is opens
