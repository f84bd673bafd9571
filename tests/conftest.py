"""Shared fixtures: a tiny tokenizer, trained on the spot, a template, a small random model."""

import gc
import json
import os
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from qwen35_mlx.kernels import autotune, decode_attention, gpu_kernel
from qwen35_mlx.model import trials
from qwen35_mlx.session import mtp_readings
from qwen35_mlx.session.load import load
from qwen35_mlx.session.model import Model
from qwen35_mlx.text.template import ChatTemplate
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.text.tokenizer import Tokenizer
from tests.metal_emulator import PLAIN, emulated, unsupported
from tests.random_model import write_weights

gpu_kernel.disable_tf32()

# What MLX raises on a GPU for sizes that none of its own kernels takes.
NO_KERNEL_OF_MLX = "No implementation for problem shape"

_CORPUS = [
    "The quick brown fox jumps over the lazy dog. def f(x):\n    return x + 1\n",
    "Grüße aus Köln, naïve café. 你好,世界。今日は良い天気です。 안녕하세요 😀👍🏽",
]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
ADDED = ["<think>", "</think>", "<tool_call>", "</tool_call>", "añadido nuevo", "ñ"]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, Any, Any]:
    """Skip a test of small matrices where MLX itself cannot multiply them."""
    try:
        return (yield)
    except RuntimeError as error:
        if NO_KERNEL_OF_MLX not in str(error):
            raise
        pytest.skip(f"MLX on this device: {error}")


@pytest.fixture(scope="session", autouse=True)
def _no_garbage_in_the_suite() -> Generator[None]:
    """Keep the collected tests and the modules out of every collection of garbage.

    A whole one takes half a second with ten thousand tests, and each model that an engine unloads
    begins one. Others begin seldom: each app leaves much that lives on for a while.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gc, "unfreeze", lambda: None)
        yield


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=380,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_CORPUS * 4, trainer)
    backend.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in SPECIAL])
    backend.add_tokens([tokenizers.AddedToken(name, normalized=False) for name in ADDED])
    backend.save(str(path / "tokenizer.json"))
    config = {
        "bos_token": None,
        "eos_token": {"content": "<|im_end|>"},
        "added_tokens_decoder": {
            str(backend.get_vocab_size()): {"content": "<|late|>", "special": True}
        },
    }
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    source = (Path(__file__).parent / "templates" / "qwen3_5.jinja").read_text()
    (path / "chat_template.jinja").write_text(source)
    return path


@pytest.fixture(scope="session")
def model_folder(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint: the small random model with this tokenizer and template."""
    path = shutil.copytree(checkpoint, tmp_path_factory.mktemp("model") / "model")
    write_weights(path)
    return path


@pytest.fixture(scope="session")
def tokenizer(checkpoint: Path) -> Tokenizer:
    return Tokenizer.from_files(TextFiles.from_folder(checkpoint))


@pytest.fixture(scope="session")
def backend(checkpoint: Path) -> tokenizers.Tokenizer:
    """The same file, loaded by the `tokenizers` library itself."""
    return tokenizers.Tokenizer.from_file(str(checkpoint / "tokenizer.json"))


@pytest.fixture(scope="session")
def template(checkpoint: Path) -> ChatTemplate:
    template = ChatTemplate.from_files(TextFiles.from_folder(checkpoint))
    assert template is not None
    return template


@pytest.fixture
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the kernels: on the GPU if there is one, else as on Metal, in the emulator.

    An indirect parameter is the machine that is emulated.
    """
    machine = getattr(request, "param", PLAIN)
    monkeypatch.delenv(gpu_kernel.KERNELS_ENV, raising=False)
    if gpu_kernel.backend():
        # Not by name: a test may change a body.
        monkeypatch.setattr(gpu_kernel, "make_launcher", gpu_kernel.make_launcher.__wrapped__)
        return
    if reason := unsupported():
        pytest.skip(reason)

    def make_launcher(kernel: gpu_kernel.Kernel) -> gpu_kernel.Launcher:
        return emulated(
            name=f"qwen35_{kernel.name}",
            input_names=list(kernel.inputs),
            output_names=list(kernel.outputs),
            source=kernel.text,
            ensure_row_contiguous=not kernel.strided,
            machine=machine,
        )

    monkeypatch.setattr(gpu_kernel, "make_launcher", make_launcher)
    monkeypatch.setattr(gpu_kernel, "backend", lambda: "metal")


@pytest.fixture(autouse=True)
def _no_remembered_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes what the user's models were found to be."""
    monkeypatch.setattr(mtp_readings, "readings_file", lambda: Path(os.devnull) / "none.json")


@pytest.fixture
def small_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are tuned at small sizes, and every call takes one second."""
    # Fewer splits have several rounds of fewer keys.
    monkeypatch.setattr(decode_attention, "MAX_THREADGROUPS", 16)
    monkeypatch.setattr(trials, "PROMPT_TOKENS", 12)
    monkeypatch.setattr(trials, "CHUNKED_TOKENS", 12)
    monkeypatch.setattr(trials, "TIMED_CALLS", 1)
    monkeypatch.setattr(autotune, "median_seconds", lambda call: mx.eval(call()) or 1.0)


@pytest.fixture
def results_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file of the test's own that the fastest variants are stored in."""
    path = tmp_path / "deep" / "kernels.json"
    monkeypatch.setattr(autotune, "results_file", lambda: path)
    return path


@pytest.fixture(scope="session")
def model(model_folder: Path) -> Model:
    return load(model_folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Generator[Path]:
    """A disk of 4 MB; skips the test where mounting one is not allowed."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("no mount command")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)
