"""What is printed: strangers' words never act on a terminal, and one module does all printing."""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from qwen35_mlx.library.library import Library
from qwen35_mlx.prompt_cache import file as snapshot_file
from qwen35_mlx.prompt_cache import prefix_tree
from scripts.support.terminal import Terminal
from tests.checkpoint.cases import golden, write
from tests.library.messages import add_message

ROOT = Path(__file__).parents[1]
EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b2J\nerror: forged"
SHOWN = "␛]52;c;ZXZpbA==␇␛[2J"


# One module prints


def product() -> list[Path]:
    return [file for folder in ("qwen35_mlx", "app") for file in (ROOT / folder).rglob("*.py")]


def prints(tree: ast.AST) -> Iterator[int]:
    """The lines that write to a standard stream without `qwen35_mlx.terminal`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name("print")):
                yield node.lineno
            case ast.Attribute(value=ast.Attribute(ast.Name("sys"), name), attr=used) if name.strip(
                "_"
            ) in ("stdout", "stderr") and used in ("write", "writelines", "buffer"):
                yield node.lineno
            case ast.Call(ast.Attribute(ast.Name("os"), "write"), [ast.Constant(1 | 2), *_]):
                yield node.lineno
            case ast.Attribute(ast.Name("traceback" | "warnings" | "logging")):
                yield node.lineno
            case _:
                pass


def test_one_module_prints() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{line}"
        for file in product()
        if file != ROOT / "qwen35_mlx" / "terminal.py"
        for line in prints(ast.parse(file.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        *(
            "print(x)",
            "sys.stdout.write(x)",
            "sys.stderr.write(x)",
            "sys.__stdout__.buffer.write(x)",
        ),
        *("os.write(2, x)", "traceback.print_exc()", "warnings.warn(x)", "logging.info(x)"),
    ],
)
def test_other_ways_to_print_are_found(code: str) -> None:
    assert list(prints(ast.parse(code))) == [1]


# Commands on a terminal


def with_config(folder: Path, **fields: object) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))
    return folder


def evil_checkpoints(folder: Path) -> Iterator[Path]:
    """Checkpoints, each with the words in another place. All are refused."""
    config, tensors = golden()
    yield write(folder / "tensor", config, tensors | {EVIL: tensors["lm_head.weight"]})
    yield with_config(write(folder / "type", config, tensors), model_type=EVIL)
    yield with_config(
        write(folder / "method", config, tensors), quantization_config={"quant_method": EVIL}
    )
    yield with_config(
        write(folder / "mode", config, tensors),
        quantization={"bits": 4, "group_size": 64, "mode": EVIL},
    )
    yield with_config(write(folder / "field", config, tensors), text_config={EVIL: EVIL})
    index = write(folder / "index", config, tensors)
    owners = {"weight_map": dict.fromkeys(tensors, EVIL)}
    (index / "model.safetensors.index.json").write_text(json.dumps(owners))
    yield index
    yield folder / f"missing {EVIL}"


def on_a_terminal(folder: Path, code: str, *arguments: str) -> str:
    """Run Python code on a terminal; what it writes there."""
    output: list[bytes] = []
    with Terminal(
        [sys.executable, "-c", code, *arguments],
        environment=dict(os.environ) | {"QWEN35_HOME": str(folder), "NO_COLOR": "1"},
        folder=folder,
        size=(2000, 50),
        on_output=output.append,
    ) as terminal:
        terminal.wait()
    return b"".join(output).decode()


def is_clean(output: str) -> bool:
    return not any(c in output for c in ("\x1b]", "\x1b[2J", "\x07", "\x9b", "\nerror: forged"))


CONVERT = """
import sys
from qwen35_mlx.convert import main
for source in sys.argv[1:]:
    print("CODE", main(["--hf-path", source, "--mlx-path", source + "-out"]))
"""


def test_convert(tmp_path: Path) -> None:
    (tmp_path / EVIL).mkdir()
    sources = [str(source) for source in evil_checkpoints(tmp_path / EVIL)]
    good = write(tmp_path / f"good {EVIL}", *golden())
    (good / "tokenizer.json").write_text("{}")
    output = on_a_terminal(tmp_path, CONVERT, *sources, str(good))
    assert is_clean(output), repr(output)
    codes = output.count("CODE 2")
    assert codes == len(sources), output
    assert output.count("CODE 0") == 1, output
    assert output.count(SHOWN) + output.count("x1b]52") >= len(sources), output


COMMANDS = """
import sys
from qwen35_mlx.session.__main__ import main as session
from qwen35_chat.main import main
from qwen35_chat import one_shot
from qwen35_mlx.session.events import Answer, Notice, Thinking
evil = sys.argv[1]
for argv in (["info"], ["verify"], ["--folder", evil + "/file", "info"], ["prune", evil]):
    print("RUN", session(argv))
stored = (["--list"], ["--export", "1"], ["--export", evil], ["--import", evil])
for argv in (*stored, ["-p", "x", evil]):
    print("RUN", main(argv))
one_shot.start_turn = lambda *_: (kind(evil) for kind in (Thinking, Answer, Notice))
print("RUN", main(["-p", "x", "-m", evil, "--show-thinking"]))
"""


def test_the_other_commands(tmp_path: Path) -> None:
    with Library(tmp_path) as library:
        add_message(library, library.create(title=EVIL), None, "user", EVIL)
    name = EVIL.replace("\n", " ").replace("/", "")
    segment = prefix_tree.Segment(tmp_path / "states" / name, 0, 10, "0" * 32, "1" * 32)
    for kind in (prefix_tree.KV, prefix_tree.STATE):
        segment.path(kind).parent.mkdir(parents=True, exist_ok=True)
        snapshot_file.write(segment.path(kind), {}, {"a": ("F32", np.ones(500, "<f4"))})
    damaged = segment.path(prefix_tree.STATE)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    output = on_a_terminal(tmp_path, COMMANDS, EVIL)
    # Where the title and messages are text, a newline begins a line of theirs.
    assert is_clean(output.replace("\nerror: forged", "")), repr(output)
    assert output.count("RUN") == 10, output
    assert output.count(SHOWN) >= 8, output


# Readers that go away, and full disks

WRITERS = [
    ["-m", "qwen35_chat.main", "--help"],
    ["-m", "qwen35_chat.main", "--version"],
    ["-m", "qwen35_chat.main", "--list"],
    ["-m", "qwen35_chat.main", "--export", "1"],
    ["-m", "qwen35_chat.main", "--plain", "--fake"],
    ["-m", "qwen35_mlx.convert", "--help"],
    ["-m", "qwen35_mlx.session", "info"],
    ["-m", "qwen35_mlx.check"],
]


@pytest.mark.parametrize("argv", WRITERS, ids=lambda argv: " ".join(argv[1:]))
@pytest.mark.parametrize("to", ["closed pipe", "full disk"])
def test_a_stream_that_cannot_be_written(argv: list[str], to: str, tmp_path: Path) -> None:
    if to == "full disk" and not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with Library(tmp_path) as library:
        library.create(title="hello")
    if to == "full disk":
        stream = os.open("/dev/full", os.O_WRONLY)
    else:
        reading, stream = os.pipe()
        os.close(reading)
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, *argv],
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.PIPE,
        env=environment | {"QWEN35_HOME": str(tmp_path)},
        text=True,
        timeout=60,
    )
    os.close(stream)
    if to == "full disk":
        assert done.returncode == 2
        assert done.stderr == "error: standard output cannot be written: No space left on device\n"
    else:
        assert done.returncode == 128 + 13
        assert done.stderr == ""
