"""Lines that differ in every request are left out, and nothing else is."""

import pytest

from qwen35_mlx.session.changing_lines import without_changing_lines

LINE = "x-anthropic-billing-header: cc_version=2.1.15; cc_entrypoint=cli; cch=00af1;"
USER = {"role": "user", "content": LINE}


def system(content):
    return {"role": "system", "content": content}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (f"{LINE}\n\nBe brief.\nThanks", "Be brief.\nThanks"),
        (f"{LINE}\n{LINE}\nBe brief.", "Be brief."),
        (parts(LINE, "Be brief."), parts("Be brief.")),
        (parts(f"{LINE}\nBe brief.", "More"), parts("Be brief.", "More")),
        (parts(LINE, LINE, "Be brief."), parts("Be brief.")),
    ],
)
def test_a_changing_line_in_front_is_left_out(content, left):
    assert without_changing_lines([system(content), USER]) == [system(left), USER]
    assert without_changing_lines([{**system(content), "role": "developer"}])[0]["content"] == left


@pytest.mark.parametrize("content", [LINE, f"{LINE}\n", parts(LINE), parts(LINE, LINE)])
def test_a_message_of_nothing_else_is_left_out(content):
    assert without_changing_lines([system(content), USER]) == [USER]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [USER],
        [system(f"Be brief.\n{LINE}"), USER],
        [system(f" {LINE}"), USER],
        [system(parts("Be brief.", LINE))],
        [USER, system(LINE)],
        [system(None)],
        [system([])],
        [system([{"type": "image"}])],
        ["text"],
        [{"role": "system"}],
    ],
)
def test_everything_else_stays(messages):
    assert without_changing_lines(messages) is messages


def test_many_lines_take_no_longer_for_each():
    lines = 200_000 * "x-anthropic-billing-header: 1\n"
    messages = [{"role": "system", "content": lines + "Be brief."}]
    assert without_changing_lines(messages) == [{"role": "system", "content": "Be brief."}]
