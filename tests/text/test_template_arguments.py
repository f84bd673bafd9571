"""The arguments of a template: found in it, given by name, refused where it does not read them."""

import json
from pathlib import Path

import pytest

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.text.control_tokens import ControlToken, ControlTokens
from qwen35_mlx.text.template import ChatTemplate

HELLO = [{"role": "user", "content": "Hello"}]
EFFORT = "{{ reasoning_effort | default('low') }}{{ enable_thinking }}"


def arguments(source: str) -> tuple[str, ...]:
    return ChatTemplate(source).arguments


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("{{ b }}{% if a is defined %}{% endif %}", ("a", "b")),
        ("{{ messages }}{{ tools }}{{ add_generation_prompt }}{{ bos_token }}{{ eos_token }}", ()),
        ("{{ range(2) }}{{ raise_exception('') }}{{ strftime_now('%Y') }}", ()),
        ("{% set x = 1 %}{{ x }}{% for y in messages %}{{ y.z }}{{ loop.index }}{% endfor %}", ()),
        # Set in one branch, read in another.
        ("{% if messages %}{% set x = 1 %}{% endif %}{{ x }}", ()),
        # A default for an argument that is not given.
        ("{% if x is not defined %}{% set x = 1 %}{% endif %}{{ x }}", ("x",)),
        ("{% set x = x | default(1) %}{{ x }}", ("x",)),
        ("{% if messages %}{% set x %}{{ x }}{% endset %}{% endif %}{{ x }}", ("x",)),
        ("{% for x in x %}{{ x }}{% endfor %}{% if m %}{% set m = 1 %}{% endif %}", ("m", "x")),
        # The parameter of a macro is not the argument of that name.
        ("{% macro f(x) %}{{ x }}{% endmacro %}{{ f(1) }}", ()),
        ("{% macro f(x) %}{{ x }}{% endmacro %}{{ f(x) }}", ("x",)),
        ("plain text", ()),
    ],
)
def test_what_is_read_before_it_is_set_is_an_argument(source: str, found: tuple[str, ...]):
    assert arguments(source) == found


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("qwen3_5", ("enable_thinking",)),
        ("qwen3_6", ("enable_thinking", "preserve_thinking")),
        ("qwen3_8", ("enable_thinking", "reasoning_effort")),
    ],
)
def test_arguments_of_templates_like_the_published_ones(name: str, found: tuple[str, ...]):
    file = Path(__file__).parents[1] / "templates" / f"{name}.jinja"
    assert arguments(file.read_text()) == found


def test_arguments_of_the_demo_model():
    source = (demo.folder() / "chat_template.jinja").read_text()
    assert arguments(source) == ("enable_thinking",)


@pytest.mark.parametrize("value", ["high", 3, 0.5, True, None, [1, {"a": "b"}]])
def test_a_given_argument_reaches_the_template(value: object):
    rendered = ChatTemplate("{{ effort | tojson }}").render(HELLO, arguments={"effort": value})
    assert json.loads(rendered) == value


def test_an_argument_that_is_not_read_is_refused_with_those_that_are():
    with pytest.raises(Qwen35Error) as caught:
        ChatTemplate(EFFORT, name="x.jinja").render(HELLO, arguments={"efort": "high"})
    assert str(caught.value) == (
        "x.jinja does not read the argument 'efort', it reads enable_thinking, reasoning_effort:"
        " leave it out, or take another model"
    )


@pytest.mark.parametrize("name", ["messages", "tools", "add_generation_prompt", "eos_token", ""])
def test_what_every_rendering_sets_cannot_be_given(name: str):
    with pytest.raises(Qwen35Error, match="does not read the argument"):
        ChatTemplate("{{ messages }}{{ tools }}").render(HELLO, arguments={name: []})


def test_thinking_is_the_argument_enable_thinking():
    template = ChatTemplate(EFFORT)
    assert template.render(HELLO, thinking=True) == "lowTrue"
    assert template.render(HELLO, arguments={"enable_thinking": True}) == "lowTrue"
    assert template.render(HELLO, arguments={"enable_thinking": True}, thinking=True) == "lowTrue"
    with pytest.raises(Qwen35Error, match="thinking is False, and the template argument"):
        template.render(HELLO, arguments={"enable_thinking": True}, thinking=False)


def test_a_value_that_json_does_not_have_is_named():
    with pytest.raises(Qwen35Error, match="the template argument reasoning_effort is of type set"):
        ChatTemplate(EFFORT).render(HELLO, arguments={"reasoning_effort": {1}})


def test_a_value_writes_no_control_token():
    control = ControlTokens([ControlToken("<|im_end|>", 7)])
    template = ChatTemplate("<|im_end|>{{ effort }}")
    rendered = template.render(HELLO, arguments={"effort": "<|im_end|>"}, control_tokens=control)
    assert list(control.split(rendered)) == [7, "<|im_end|>"]
