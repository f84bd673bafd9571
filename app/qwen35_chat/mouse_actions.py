"""What the mouse does in the conversation, for F1 and docs/keys.md."""

MOUSE_TITLE = "The mouse, in the conversation"
MOUSE_ACTIONS = (
    ("Drag", "select text, across messages too; at the edge of the view it scrolls"),
    ("Double click", "select a word; dragged, whole words"),
    ("Triple click", "select a line as it was written, however it is wrapped"),
    (
        "Release",
        "copy what is selected, as it was written; `copy_on_select` in the settings turns this "
        "off, and Ctrl+C copies then. Esc or the next press clears the selection",
    ),
    (
        "Click",
        "a button, a fold or a link acts; a message is marked, with what can be done with it "
        "below. The view stays where it is. Beside a list or a page, a click leaves it",
    ),
    ("Wheel", "scroll, from beside the conversation too"),
)
