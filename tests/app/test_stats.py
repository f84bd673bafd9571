"""Figures of a conversation and of a session."""

from pathlib import Path

from qwen35_chat.fake import done
from qwen35_chat.stats import Totals, sections

from qwen35_mlx.library.conversation import Conversation, Message, Usage
from qwen35_mlx.session.events import Answer, Done, DraftCounts
from tests.app.drive import chat
from tests.app.plain_drive import PlainChat

USAGE = Usage(1000, 750, 41, 0.5, 2.0, 1 << 20)


def test_sums_and_shares() -> None:
    totals = Totals().plus(USAGE, DraftCounts(10, 20, 5)).plus(USAGE)
    assert totals.lines() == [
        ("replies", "2"),
        ("prompt tokens", "2,000, 1,500 from the cache (75%)"),
        ("reply tokens", "82"),
        ("reading", "500 tokens a second"),  # those from the cache took no time
        ("writing", "20 tokens a second"),  # the first of a reply comes with its prompt
        ("drafts", "5 of 20 accepted (25%)"),
    ]


def test_nothing_is_divided_by_nothing() -> None:
    assert Totals().lines() == [("replies", "0")]
    at_once = Usage(0, 0, 1, 0.0, 0.0, 0)
    assert [name for name, _ in Totals().plus(at_once).lines()] == [
        "replies", "prompt tokens", "reply tokens",
    ]  # fmt: skip
    assert sections(None, Totals(), 0, 0)[0][1] == [("replies", "0")]


def test_all_versions_count_and_what_was_cut_does_not() -> None:
    messages = (
        Message(1, None, "user", "Hi"),
        Message(2, 1, "assistant", "one", usage=USAGE),
        Message(3, 1, "assistant", "two", usage=USAGE),
        Message(4, 1, "assistant", "cut", state="cancelled"),
    )
    (_, here), _ = sections(Conversation(1, "", messages, 4), Totals(), 5000, 4096)
    assert here[0] == ("replies", "2")
    assert ("context", "5,000 of 4,096 tokens in use (122%), 0 left") in here


async def test_the_page_has_this_conversation_and_the_session(home: Path) -> None:
    async with chat(home, size=(100, 30)) as at:
        await at.turn("one", "so")
        await at.press("ctrl+n")
        await at.shown()
        await at.send("two")
        last = done()
        await at.shown([Answer("so"), Done("stop", last.usage, {}, DraftCounts(4, 8, 6))])
        await at.send("/stats")
        text = " ".join(at.text.split())
        assert "This conversation, all versions replies 1 prompt tokens 100, 0 from" in text
        assert "120 of 4,096 tokens in use (3%), 3,976 left" in text
        assert "Since the start replies 2" in text
        assert "drafts 6 of 8 accepted (75%)" in text
        await at.press("escape")
        assert "Since the start" not in at.text


def test_plain_mode_writes_them_as_lines(session: PlainChat) -> None:
    lines = session.run("Hi", [Answer("so"), done()], "/stats", "/quit").splitlines()
    assert "This conversation, all versions:" in lines
    assert "  context: 120 of 4,096 tokens in use (3%), 3,976 left" in lines
    assert lines[-1] == "  writing: 38 tokens a second"
