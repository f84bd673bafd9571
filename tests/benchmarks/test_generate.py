"""The benchmark of whole models: the GGUF file of its peer, and what it refuses."""

import ctypes
import json
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

import qwen35_mlx
from qwen35_mlx.checkpoint.gguf.header import read_settings
from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion.gguf_plan import GgufType, PlannedTensor
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from scripts.benchmarks import generate
from scripts.support import random_gguf
from scripts.support.llama_cpp_peer import LlamaCpp
from scripts.support.random_gguf import (
    KINDS,
    general_name,
    random_gguf_layout,
    random_values,
    write_random_gguf,
)
from scripts.support.random_weights import SHAPES

Benchmark = Callable[..., int]
VOCABULARY = 50  # of the stand-in for llama.cpp


def write(folder: Path, shape: str, bits: int = 4) -> Path:
    path = folder / f"{shape}-{bits}.gguf"
    layout = random_gguf_layout(ModelConfig.from_dict(SHAPES[shape]), bits)
    write_random_gguf(path, layout, general_name(shape, bits))
    return path


@pytest.fixture
def benchmark(monkeypatch) -> Benchmark:
    """Runs the command."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["generate", *map(str, arguments)])
        return generate.main()

    return run


class FakeLlama:
    """In place of llama.cpp: the next token is the sum of all before, modulo the vocabulary."""

    def __init__(self, path: str, **settings: Any):
        self.path, self.settings = path, settings
        self.ctx = self.model = self
        self.sum, self.passes = 0, []
        self.logits = (ctypes.c_float * VOCABULARY)()

    def close(self) -> None: ...


@pytest.fixture
def fake_package(monkeypatch) -> SimpleNamespace:
    """A package with one model after another in `models`."""

    def decode(llama: FakeLlama, batch: list[int]) -> int:
        llama.passes.append(len(batch))
        llama.sum += sum(batch)
        return 0

    def logits(llama: FakeLlama, _: int) -> Any:
        llama.logits[:] = [float(i == llama.sum % VOCABULARY) for i in range(VOCABULARY)]
        return llama.logits

    def clear(llama: FakeLlama, _: bool) -> None:
        llama.sum = 0

    def load(path: str, **settings: Any) -> FakeLlama:
        package.models.append(FakeLlama(path, **settings))
        return package.models[-1]

    package = SimpleNamespace(
        models=[],
        __version__="1.0",
        Llama=load,
        llama_token=ctypes.c_int32,
        llama_batch_get_one=lambda tokens, count: list(tokens)[:count],
        llama_decode=decode,
        llama_get_logits_ith=logits,
        llama_memory_clear=clear,
        llama_get_memory=lambda llama: llama,
        llama_model_get_vocab=lambda llama: llama,
        llama_vocab_n_tokens=lambda llama: VOCABULARY,
        llama_supports_gpu_offload=lambda: True,
        llama_model_size=lambda llama: 5,
    )
    monkeypatch.setitem(sys.modules, "llama_cpp", package)
    return package


@pytest.mark.parametrize("shape", ["tiny", "tiny-dense"])
@pytest.mark.parametrize("bits", KINDS)
def test_a_random_file_holds_a_model_of_the_shape(shape, bits, tmp_path):
    path = write(tmp_path, shape, bits)
    checkpoint = open_checkpoint(path)
    checkpoint.verify()
    wanted = ModelConfig.from_dict(SHAPES[shape])
    for field in ("vocab_size", "hidden_size", "layer_types", "num_experts", "head_dim"):
        assert getattr(checkpoint.model, field) == getattr(wanted, field), field
    tokens = read_settings(path)["tokenizer.ggml.tokens"]
    assert tokens == wanted.vocab_size  # as many as rows, not the demo model's
    part = "switch_mlp." if wanted.num_experts else ""
    for name in (
        "model.embed_tokens.weight",
        f"model.layers.0.mlp.{part}down_proj.weight",
        "model.layers.1.linear_attn.in_proj_a.weight",
        "model.layers.3.self_attn.q_proj.weight",
    ):
        assert checkpoint.matrices[name].file.stored_dtype == KINDS[bits], name
        values = np.array(checkpoint.plain(name).read(0, 16).astype(mx.float32))
        assert values.std() * values.shape[-1] ** 0.5 == pytest.approx(1, abs=0.05), name
        assert abs(values.mean()) < 0.05 * values.std(), name


def planned(shape: tuple[int, ...], layer: int = 0) -> PlannedTensor:
    name = f"model.layers.{layer}.mlp.up_proj.weight"
    return PlannedTensor(f"blk.{layer}.ffn_up.weight", name, shape, GgufType.Q8_0)


def test_layers_have_different_values():
    one, other = (b"".join(random_values(planned((64, 256), layer), "Q4_0")) for layer in (0, 1))
    assert len(one) == len(other) == 64 * 256 // 32 * 18
    assert one != other


def test_a_large_tensor_is_written_in_small_pieces():
    tensor = planned((248320, 2048))
    sizes = [len(piece) for piece in random_values(tensor, "Q4_0")]
    assert sum(sizes) == 248320 * 2048 // 32 * 18
    assert max(sizes) < 16e6


def test_a_router_tells_experts_apart(tmp_path):
    checkpoint = open_checkpoint(write(tmp_path, "tiny"))
    router = np.array(checkpoint.plain("model.layers.2.mlp.gate.weight").read(0, 16))
    assert router.std() * router.shape[-1] ** 0.5 == pytest.approx(1, abs=0.1)
    likeness = np.corrcoef(router) - np.eye(len(router))
    assert abs(likeness).max() < 0.4


def test_a_file_that_was_not_finished_is_not_there(tmp_path, monkeypatch):
    def fail(*_: Any) -> Any:
        yield memoryview(b"1234")
        raise OSError("disk full")

    monkeypatch.setattr(random_gguf, "random_values", fail)
    with pytest.raises(OSError, match="disk full"):
        write(tmp_path, "tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "advice"), [("llama_cpp", "llama-cpp-python"), ("mlx_lm", "mlx-lm")]
)
def test_a_missing_package_is_one_line_before_anything_runs(
    module, advice, benchmark, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(generate, "ours_rows", lambda args: pytest.fail("measured"))
    assert benchmark("--shape", "tiny", "--peers", "mlx-lm", "llama.cpp") != 0
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    assert f"pip install {advice}" in line
    assert captured.out == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--prompt", 1], "--prompt is 1: it must be 2 or more"),
        (["--tokens", 0], "--tokens is 0: it must be 1 or more"),
        (["--right", 1.5], "between 0 and 1"),
        (["--peers", "vllm"], "--help"),
        (["--peers", "llama.cpp", "--model", "folder"], "give --gguf"),
        (["--peers", "llama.cpp", "--model", "nowhere.gguf"], "there is no file nowhere.gguf"),
        (["--peers", "mlx-lm", "--model", "a.gguf"], "mlx-lm reads no GGUF"),
        (["--peers", "llama.cpp", "--gguf", "nowhere/a.gguf"], "there is no folder nowhere"),
    ],
)
def test_wrong_options_are_one_line(arguments, words, benchmark, fake_package, monkeypatch, capsys):
    monkeypatch.setattr(generate, "ours_rows", lambda args: pytest.fail("measured"))
    assert benchmark("--shape", "tiny", *arguments) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_another_file_is_neither_measured_nor_overwritten(
    tmp_path, benchmark, fake_package, monkeypatch, capsys
):
    path = write(tmp_path, "tiny-dense")
    before = path.read_bytes()
    monkeypatch.setattr(generate, "ours_rows", lambda args: pytest.fail("measured"))
    assert benchmark("--shape", "tiny", "--peers", "llama.cpp", "--gguf", path) != 0
    assert "'random tiny-dense in Q4_0', not 'random tiny in Q4_0'" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_file_that_was_kept_is_not_written_again(tmp_path, monkeypatch):
    path = write(tmp_path, "tiny")
    monkeypatch.setattr(generate, "write_random_gguf", lambda *_: pytest.fail("written"))
    with generate.gguf_file(SimpleNamespace(gguf=path, shape="tiny", bits=4)) as found:
        assert found == path


def test_a_full_disk_is_one_line(benchmark, fake_package, monkeypatch, capsys):
    monkeypatch.setattr(generate, "ours_rows", lambda args: [])
    full = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(generate.shutil, "disk_usage", lambda path: full)
    assert benchmark("--shape", "tiny", "--peers", "llama.cpp") != 0
    assert "give --gguf a path on another disk" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_line(
    tmp_path, benchmark, fake_package, monkeypatch, capsys
):
    def fail(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(generate, "ours_rows", lambda args: [])
    monkeypatch.setattr(generate, "write_random_gguf", fail)
    path = tmp_path / "a.gguf"
    assert benchmark("--shape", "tiny", "--peers", "llama.cpp", "--gguf", path) != 0
    (line,) = capsys.readouterr().err.splitlines()
    assert f"cannot write {path} (Permission denied)" in line


def test_llama_cpp_reads_the_prompt_in_chunks_on_the_gpu(fake_package):
    model = LlamaCpp(Path("a.gguf"), context=20, chunk=4)
    prompt = list(range(10))
    assert list(islice(model.generate(prompt), 3)) == [45, (45 + 45) % 50, (45 + 45 + 40) % 50]
    assert list(islice(model.generate(prompt), 1)) == [45]  # from an empty state again
    (llama,) = fake_package.models
    assert llama.passes == [4, 4, 2, 1, 1, 4, 4, 2]
    wanted = {"n_gpu_layers": -1, "flash_attn": True, "n_ctx": 20, "n_batch": 4, "n_ubatch": 4}
    assert llama.settings.items() >= wanted.items()


def test_llama_cpp_without_memory_is_an_error(fake_package):
    fake_package.llama_decode = lambda llama, batch: 1
    with pytest.raises(Qwen35Error, match="code 1"):
        LlamaCpp(Path("a.gguf"), 20, 4).logits([1])


def test_one_run_ends_in_one_table_and_one_line(
    tmp_path, benchmark, fake_package, monkeypatch, capsys
):
    speeds = iter([(100.0, 20.0), (90.0, 22.0), (50.0, 10.0)])

    def measure(name: str, _: Any, args: Any) -> generate.Row:
        prefill, decode = next(speeds)
        values = {"what": name, "prefill tok/s": prefill, "decode tok/s": decode}
        return dict.fromkeys(generate.COLUMNS) | values

    draft = {"right": 0.8, "tok/s": 30.0, "of none": 1.6, "tokens a pass": 2.1}
    monkeypatch.setattr(generate, "measure", measure)
    monkeypatch.setattr(generate, "random_network", lambda source: SimpleNamespace(mtp=source.mtp))
    passes = [{"tokens": 2, "ms": 7.0, "of one": 1.2}]
    monkeypatch.setattr(generate.passes, "passes", lambda *_: passes)
    monkeypatch.setattr(
        generate.passes, "gains", lambda *_: [draft | {"depth": "auto", "first difference": ""}]
    )
    path = tmp_path / "kept.gguf"
    assert benchmark("--shape", "tiny-dense", "--peers", "llama.cpp", "--gguf", path) == 0
    assert read_settings(path)["general.name"] == "random tiny-dense in Q4_0"
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("{")] == lines[-1:]
    found = json.loads(lines[-1])
    speed = {row["what"]: row["speed"] for row in found["rows"]}
    assert speed == {
        "ours": 1.0,
        "ours, 8-bit KV": 1.1,
        "a pass of 2": None,
        "drafts, 80% right": 1.6,
        "llama.cpp": 0.5,
    }
    assert found["ratios"] == {"llama.cpp": {"prefill tok/s": 2.0, "decode tok/s": 2.0}}
    assert found["versions"] == {"llama.cpp": "1.0"}
    assert [found["rows"][2][key] for key in ("ms a pass", "cost")] == [7.0, 1.2]
    assert found["rows"][-1]["weights GB"] == 5e-9


@pytest.mark.parametrize("shape", ["tiny", "tiny-dense"])
def test_llama_cpp_computes_what_this_package_computes(shape, tmp_path):
    """Up to the 8 bits of its activations. Runs where llama-cpp-python is installed."""
    pytest.importorskip("llama_cpp")
    path = write(tmp_path, shape)
    prompt = [(i * 7919) % 1900 for i in range(40)]
    model = LlamaCpp(path, context=64, chunk=16)
    found = model.logits(prompt).copy()
    model.close()
    wanted = np.array(qwen35_mlx.load(path, dtype="float32", mtp="off").logits(prompt))[-1]
    assert np.corrcoef(found, wanted)[0, 1] > 0.98
