"""The guard of all tests of the app: it finds what waits for the disk on the screen's thread."""

from pathlib import Path

import pytest
from qwen35_chat.handlers.conversations import ConversationHandler

from tests.app import disk_guard
from tests.app.drive import Driver, chat


async def found_in(home: Path, monkeypatch: pytest.MonkeyPatch, action: str) -> str:
    """What the guard finds if Ctrl+N does this on the screen's thread."""

    def new(handler: ConversationHandler) -> None:
        controller = handler._controller
        match action:
            case "library":
                controller.library.count()
            case "claim":
                controller.library.claim(1)
            case "settings":
                controller.settings_file.changed()
            case "history":
                controller.history.add("something")
            case "thread":
                controller.calls.start("library", controller.library.count)

    with monkeypatch.context() as patches:
        # As a part of the app: the guard passes over what tests do themselves.
        code = new.__code__.replace(co_filename="/qwen35_chat/handlers/conversations.py")
        new.__code__ = code
        patches.setattr(ConversationHandler, "new", new)
        found = disk_guard.guard(patches)
        async with chat(home, settings=home / "settings.toml") as at:
            await press(at)
    return "\n".join(found)


async def press(at: Driver) -> None:
    await at.press("ctrl+n")


@pytest.mark.parametrize(
    ("action", "call"),
    [
        ("library", "_connection"),
        ("claim", "open"),
        ("settings", "stat"),
        ("history", "open"),
        ("thread", ""),
    ],
)
async def test_a_command_that_waits_for_the_disk_is_found(
    home: Path, monkeypatch: pytest.MonkeyPatch, action: str, call: str, request
) -> None:
    found = await found_in(home, monkeypatch, action)
    assert (f"calls {call}" in found) if call else not found
    # What was found on purpose does not fail this test.
    request.getfixturevalue("no_disk_on_the_screen").clear()
