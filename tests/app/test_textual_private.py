"""The private members of Textual that the app uses are there, and do what it needs.

A failure names the member; `qwen35_chat.textual_private`, `qwen35_chat.textual_editing` and
`qwen35_chat.terminal_driver` are the only modules to change.
"""

import ast
import inspect
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest
from qwen35_chat import terminal_driver, textual_editing, textual_private
from qwen35_chat.textual_editing import LiteralInput, LiteralTextArea
from qwen35_chat.textual_private import (
    PrivateApp,
    bindings_of,
    functional_key,
    key_name,
    legacy_keys,
    set_bindings,
    set_virtual_size,
    write_to_terminal,
)
from textual._xterm_parser import XTermParser
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingsMap
from textual.dom import DOMNode
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.widget import Widget
from textual.widgets import Input, TextArea
from textual.worker import WorkerFailed

from qwen35_mlx import exit_codes

ADAPTERS = (textual_private, textual_editing, terminal_driver)
APP = Path(textual_private.__file__).parent
ESCAPE = "a\x1b[2Jb"


class Small(App[None]):
    """An app with each of the widgets."""

    CSS = "ScrollView { height: 4; overflow-y: scroll; }"

    def __init__(self) -> None:
        super().__init__()
        self.pressed: list[str] = []
        self.laid_out = 0

    def compose(self) -> ComposeResult:
        yield LiteralInput(ESCAPE)
        yield LiteralTextArea(ESCAPE)
        yield ScrollView()

    def action_note(self, key: str) -> None:
        self.pressed.append(key)


def text_of(widget: Widget) -> str:
    size = widget.size
    return "\n".join(strip.text for strip in widget.render_lines(size.region))


@pytest.mark.parametrize(
    ("owner", "member"),
    [
        (DOMNode(), "_bindings"),
        (App(), "_driver"),
        (App(), "_exception"),
        (App(), "_exception_event"),
        (App(), "_exit"),
        (App(), "_exit_renderables"),
        (App, "_handle_exception"),
        (App, "on_event"),
        (App, "get_driver_class"),
        (LinuxDriver, "_run_input_thread"),
        (LinuxDriver, "_sigcont_application"),
        (LinuxDriver, "_sigtstp_application"),
        (LinuxDriver, "process_message"),
        (LinuxDriver, "resume_application_mode"),
        (LinuxDriver, "run_input_thread"),
        (LinuxDriver, "start_application_mode"),
        (LinuxDriver, "stop_application_mode"),
        (LinuxDriver, "suspend_application_mode"),
        (XTermParser, "parse_mouse_code"),
        (XTermParser(), "mouse_pixels"),
        (XTermParser(), "terminal_pixel_size"),
        (XTermParser(), "terminal_size"),
        (App, "_close_messages_no_wait"),
        (Input, "_value"),
        (ScrollView, "virtual_size"),
        (ScrollView, "set_reactive"),
        (Input, "validate_selection"),
        (TextArea, "get_line"),
        (TextArea, "_render_line"),
        (TextArea, "_set_document"),
        (TextArea, "_rewrap_and_refresh_virtual_size"),
        (TextArea, "_draw_cursor"),
        (TextArea(), "_theme"),
        (TextArea(), "wrapped_document"),
        (TextArea(), "navigator"),
        (TextArea().wrapped_document, "_width"),
        (TextArea().wrapped_document, "_tab_width"),
        (TextArea().wrapped_document, "_wrap_offsets"),
        (TextArea().wrapped_document, "_tab_width_cache"),
        (TextArea().wrapped_document, "_offset_to_line_info"),
        (TextArea().wrapped_document, "_line_index_to_offsets"),
        (TextArea().wrapped_document, "wrap_range"),
        (TextArea().wrapped_document, "get_target_document_column"),
        (TextArea, "render_lines"),
    ],
)
def test_the_member_is_there(owner: object, member: str) -> None:
    assert hasattr(owner, member), member


def test_the_driver_notes_whether_it_has_the_terminal() -> None:
    source = inspect.getsource(LinuxDriver) + inspect.getsource(Driver)
    for member in ("self._auto_restart = ", "self._must_signal_resume = ", "_app = "):
        assert member in source, member
    assert "DISABLE_KITTY_KEY" in source


def test_the_tables_of_keys_have_the_names_of_keys() -> None:
    assert legacy_keys("\x1b[Z") == ("shift+tab",), "ANSI_SEQUENCES_KEYS"
    assert legacy_keys("\x1b[E") == legacy_keys("no sequence") == ()
    assert functional_key("13u") == "enter", "FUNCTIONAL_KEYS"
    assert functional_key("13x") == ""
    assert key_name("/") == "slash", "_character_to_key"


async def test_bindings_can_be_replaced() -> None:
    app = Small()
    async with app.run_test() as pilot:
        for node in (app, app.screen):
            set_bindings(node, BindingsMap([Binding("f5", "app.note('f5')", priority=True)]))
            bindings_of(node).bind("f6", "app.note('f6')", priority=True)
            app.pressed.clear()
            await pilot.press("f5", "f6")
            assert app.pressed == ["f5", "f6"], "_bindings"
            set_bindings(node, BindingsMap())
            await pilot.press("f5")
            assert app.pressed == ["f5", "f6"], "_bindings"


@pytest.mark.parametrize("where", ["widget", "worker"])
async def test_a_fault_is_one_line(where: str) -> None:
    class Faulty(PrivateApp):
        def crash_line(self, error: BaseException) -> str:
            return f"it was a {type(error).__name__}\x1b[2J"

    app = Faulty()

    def fault() -> None:
        raise KeyError(ESCAPE)

    async def run() -> None:
        async with app.run_test() as pilot:
            if where == "widget":
                app.call_later(fault)
            else:
                app.run_worker(fault, thread=True)
            await pilot.pause(0.2)
            app.exit()
            said = [str(line) for line in app._exit_renderables]
            assert said == ["it was a KeyError␛[2J"], "_exit_renderables"

    with pytest.raises(KeyError if where == "widget" else WorkerFailed):
        await run()
    assert app.return_code == exit_codes.CRASHED


async def test_a_widget_that_is_gone_at_the_end_is_no_fault() -> None:
    app = PrivateApp()

    def look() -> None:
        app.query_one(Input)

    async with app.run_test():
        app.exit(return_code=3)
        app.call_later(look)
    assert app.return_code == 3


async def test_a_sequence_reaches_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Small()
    write_to_terminal(app, "nothing is running")
    async with app.run_test():
        written: list[str] = []
        monkeypatch.setattr(app._driver, "write", written.append)
        write_to_terminal(app, "\x1b]52;c;YQ==\a")
        assert written == ["\x1b]52;c;YQ==\a"], "_driver.write"


async def test_a_virtual_size_lays_out_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Small()
    async with app.run_test() as pilot:
        view = app.query_one(ScrollView)
        layouts: list[object] = []
        await pilot.pause()
        reflow = app.screen._compositor.reflow
        monkeypatch.setattr(
            app.screen._compositor, "reflow", lambda *args: layouts.append(1) or reflow(*args)
        )
        set_virtual_size(view, Size(20, 100))
        await pilot.pause()
        assert view.virtual_size == Size(20, 100), "virtual_size"
        assert view.max_scroll_y == 100 - view.scrollable_content_region.height, "max_scroll_y"
        assert view.vertical_scrollbar.window_virtual_size == 100, "window_virtual_size"
        assert not layouts, "set_reactive"


@pytest.mark.parametrize("kind", [LiteralInput, LiteralTextArea])
async def test_control_characters_are_shown_in_one_cell_each(kind: type[Widget]) -> None:
    member = "_value" if kind is LiteralInput else "get_line"
    app = Small()
    async with app.run_test():
        shown = text_of(app.query_one(kind))
        assert "a␛[2Jb" in shown, member
        assert "\x1b" not in shown, member


async def test_the_styles_of_a_text_area_are_computed_once_and_after_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed: list[object] = []
    render = TextArea.render_lines
    monkeypatch.setattr(
        TextArea, "render_lines", lambda self, crop: computed.append(1) or render(self, crop)
    )
    app = Small()
    async with app.run_test() as pilot:
        area = app.query_one(LiteralTextArea)
        text_of(area)
        computed.clear()
        before = text_of(area)
        assert not computed, "super(TextArea, self).render_lines"
        app.theme = "textual-light"
        await pilot.pause()
        assert text_of(area) == before
        assert computed, "notify_style_update"


def private_names(tree: ast.AST, *, used: bool) -> set[str]:
    """Names with one underscore: the attributes that are read or called, or what is defined."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr="_exit"):
                pass  # public in spite of its name
            case ast.Attribute(attr=name, ctx=context):
                if isinstance(context, ast.Load) == used:
                    names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if not used:
                names.add(name)
            case ast.AnnAssign(target=ast.Name(id=name)) if not used:
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]) if not used:
                names.add(name)
            case _:
                pass
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def test_no_other_module_uses_private_members() -> None:
    """Every private attribute in use is defined by the app itself."""
    trees = {
        file.name: ast.parse(file.read_text(encoding="utf-8"))
        for file in APP.rglob("*.py")
        if file.name not in [Path(str(adapter.__file__)).name for adapter in ADAPTERS]
    }
    own = {name for tree in trees.values() for name in private_names(tree, used=False)}
    for file, tree in trees.items():
        assert private_names(tree, used=True) <= own, file


def classes_of_the_app() -> list[type[DOMNode]]:
    for file in APP.rglob("*.py"):
        if file.parent.name in ("screens", "widgets"):
            import_module(f"qwen35_chat.{file.parent.name}.{file.stem}")
    import_module("qwen35_chat.app")
    found = {
        value
        for name, module in sys.modules.items()
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == name and name.startswith("qwen35_chat.")
    }
    nodes = [cls for cls in found if issubclass(cls, DOMNode)]
    return sorted(
        (cls for cls in nodes if cls.__module__ not in [adapter.__name__ for adapter in ADAPTERS]),
        key=lambda cls: cls.__name__,
    )


@pytest.mark.parametrize("cls", classes_of_the_app(), ids=lambda cls: cls.__name__)
def test_no_class_of_the_app_overrides_a_private_member(cls: type[DOMNode]) -> None:
    """A name of ours that Textual uses, too, would change what Textual does."""
    base = next(base for base in cls.__mro__ if base.__module__.startswith("textual."))
    theirs = {*dir(base), *vars(base())}
    ours = private_names(ast.parse(dedent(inspect.getsource(cls))), used=False)
    assert not ours & theirs
