"""A quick start: heavy modules are imported only where they are used."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {
    "mlx", "mlx_lm", "numpy", "transformers", "tokenizers", "huggingface_hub", "torch", "tomlkit",
}  # fmt: skip


def loaded_after(code: str) -> set[str]:
    """Top-level names in sys.modules once `code` has run in a fresh interpreter."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, check=True
    )
    return set(result.stdout.splitlines()[-1].split())


def test_the_app_never_imports_mlx() -> None:
    assert not loaded_after("import qwen35_chat.app") & HEAVY


def test_the_first_frame_waits_for_no_list_formula_export_or_download() -> None:
    later = {
        *(
            "qwen35_chat.screens.conversations",
            "qwen35_chat.screens.lists",
            "qwen35_chat.screens.models",
            "qwen35_chat.screens.question",
        ),
        *("qwen35_chat.models", "qwen35_chat.drawing.latex.nodes", "qwen35_chat.html_export"),
        *("qwen35_mlx.checkpoint.hub", "qwen35_mlx.model.config", "markdown_it"),
    }
    code = f"import sys, qwen35_chat.runtime, qwen35_chat.app; print({later} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_reading_the_settings_imports_nothing_heavy(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('theme = "light"\n')
    code = f"""
from pathlib import Path
from qwen35_chat.settings_file import SettingsFile
assert SettingsFile(Path({str(tmp_path)!r}) / "settings.toml").load().theme == "light"
"""
    assert not loaded_after(code) & HEAVY


def test_the_modules_of_the_model_list_import_nothing_heavy() -> None:
    assert not loaded_after("import qwen35_chat.models, qwen35_chat.tokens") & HEAVY


def test_the_engine_imports_mlx_on_its_own_thread_only() -> None:
    code = "from qwen35_mlx.session.engine import EngineThread; EngineThread('demo')"
    assert not loaded_after(code) & HEAVY


@pytest.mark.parametrize("module", ["controller", "keys", "commands", "plain_mode"])
def test_only_the_screen_imports_textual(module: str) -> None:
    assert not loaded_after(f"import qwen35_chat.{module}") & {*HEAVY, "textual", "rich"}


def test_servers_import_their_package_when_they_start(tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_text('{"mcpServers": {"a": {"command": "x"}}}')
    code = f"""
import pathlib
import qwen35_chat.runtime, qwen35_chat.tools.toolbox as toolbox
opened, problems = toolbox.open_toolbox(pathlib.Path({str(tmp_path)!r}), None, "")
assert opened is not None and not problems
opened.close()
"""
    assert not loaded_after(code) & {*HEAVY, "mcp", "mcp_types", "anyio", "pydantic", "httpx2"}


def test_drawing_needs_neither_screens_nor_widgets() -> None:
    code = """
import sys
import qwen35_chat.drawing.messages, qwen35_chat.drawing.markdown, qwen35_chat.drawing.colours
used = [n for n in sys.modules if n.startswith(("qwen35_chat.screens", "qwen35_chat.widgets",
    "textual.screen", "textual.app", "textual.widget"))]
assert not used, used
"""
    assert loaded_after(code)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_neither_mlx_nor_textual(option: str) -> None:
    code = f"""
from qwen35_chat.main import main
try:
    main(["{option}"])
except SystemExit:
    pass
"""
    assert not loaded_after(code) & (HEAVY | {"textual", "rich"})
