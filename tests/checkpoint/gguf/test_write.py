"""GGUF files that are written from a checkpoint.

Three oracles: what llama.cpp's converter made of the same checkpoints (`converter.json`, see
scripts/make_gguf_goldens.py), the name map of the `gguf` package, and the format's rules in numpy.
"""

import json
import zlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import mlx.core as mx
import numpy as np
import pytest

from qwen35_mlx.checkpoint.opening import open_checkpoint
from qwen35_mlx.conversion import gguf_plan as write_plan
from qwen35_mlx.conversion.gguf_file import write_gguf
from qwen35_mlx.conversion.gguf_plan import plan_tensors
from qwen35_mlx.conversion.new_folder import remove_leftovers
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors
from qwen35_mlx.text.text_files import TextFiles
from tests.checkpoint.cases import golden, listing
from tests.checkpoint.gguf.test_tokenizer import SMALL, text_files
from tests.goldens import FOLDER, NAMES

CONVERTER = json.loads(Path(__file__).with_name("converter.json").read_text())
SAMPLING = {"temperature": 0.6, "top_k": 20}


class Source:
    """Random tensors of a config, which records the reads."""

    def __init__(self, config: ModelConfig) -> None:
        self.tensors = {
            name: mx.array(np.random.default_rng(len(name)).normal(0, 1, shape).astype(np.float32))
            for name, shape in (trunk_tensors(config) | mtp_tensors(config)).items()
        }
        self.reads: list[tuple[str, int, int, int]] = []

    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name].shape

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array:
        rows = self.tensors[name][start:stop]
        self.reads.append((name, start, start + rows.shape[0], rows.size))
        return rows


@cache
def config_of(name: str) -> ModelConfig:
    return ModelConfig.from_dict(golden(name)[0])


def text(**generation: Any) -> TextFiles:
    return replace(text_files(SMALL), generation_config=generation)


def write(out: Path, name: str, kind: str) -> gguf.GGUFReader:
    checkpoint = open_checkpoint(FOLDER / name)
    write_gguf(out, checkpoint, checkpoint.model, text(**SAMPLING), kind, name="Small")
    return gguf.GGUFReader(out)


def metadata(reader: gguf.GGUFReader) -> dict[str, Any]:
    return {
        key: field.contents() for key, field in reader.fields.items() if not key.startswith("GGUF.")
    }


def value_heads(values: np.ndarray, axis: int, config: ModelConfig, width: int) -> np.ndarray:
    """Grouped heads in tiled order, by the definition: head (key, i) goes to (i, key)."""
    keys = config.linear_num_key_heads
    grid = np.moveaxis(values, axis, 0).reshape(keys, -1, width, *np.delete(values.shape, axis))
    tiled = np.swapaxes(grid, 0, 1).reshape(-1, *np.delete(values.shape, axis))
    return np.moveaxis(tiled, 0, axis)


def expected_tensors(name: str) -> dict[str, np.ndarray]:
    """The tensors of a golden as GGUF has them: names by the package, values by the rules."""
    config = config_of(name)
    layers, width = config.num_hidden_layers, config.linear_value_head_dim
    arch = gguf.MODEL_ARCH.QWEN35MOE if config.num_experts else gguf.MODEL_ARCH.QWEN35
    names = gguf.get_tensor_name_map(arch, layers + 1)
    mtp = {
        "mtp.fc.weight": f"blk.{layers}.nextn.eh_proj.weight",
        "mtp.norm.weight": f"blk.{layers}.nextn.shared_head_norm.weight",
        "mtp.pre_fc_norm_embedding.weight": f"blk.{layers}.nextn.enorm.weight",
        "mtp.pre_fc_norm_hidden.weight": f"blk.{layers}.nextn.hnorm.weight",
    }
    found: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for raw, array in golden(name)[1].items():
        value = np.array(array)
        hf = raw.replace("model.language_model.", "model.")
        hf = hf.replace("mtp.layers.0.", f"model.layers.{layers}.").replace(
            "dt_bias", "dt_proj.bias"
        )
        if ".experts." in hf and hf.split(".experts.")[1][0].isdigit():
            base, _, rest = hf.partition(".experts.")
            index, _, projection = rest.partition(".")
            experts.setdefault(f"{base}.experts.{projection}", {})[int(index)] = value
            continue
        if hf.endswith("experts.gate_up_proj"):
            gate, up = np.split(value, 2, axis=1)
            experts[hf.replace("gate_up", "gate") + ".weight"] = dict(enumerate(gate))
            experts[hf.replace("gate_up", "up") + ".weight"] = dict(enumerate(up))
            continue
        if hf.endswith("experts.down_proj"):
            hf += ".weight"
        if (hf.endswith("norm.weight") and "linear_attn" not in hf) or "pre_fc_norm" in hf:
            value = 1 + value
        part = hf.partition("linear_attn.")[2].partition(".")[0]
        if part == "A_log":
            value = -np.exp(value)
        if part == "conv1d":
            value = value[:, 0]
        if part in ("in_proj_qkv", "conv1d"):
            start = 2 * config.linear_key_dim
            tail = value_heads(value[start:], 0, config, width)
            value = np.concatenate([value[:start], tail])
        elif part == "in_proj_z":
            value = value_heads(value, 0, config, width)
        elif part in ("in_proj_a", "in_proj_b", "A_log", "dt_proj"):
            value = value_heads(value, 0, config, 1)
        elif part == "out_proj":
            value = value_heads(value, 1, config, width)
        found[mtp.get(hf) or names.get_name(hf, (".weight", ".bias")) or hf] = value
    for hf, stack in experts.items():
        found[names.get_name(hf, (".weight",)) or hf] = np.stack(
            [stack[i] for i in range(len(stack))]
        )
    return found


def q8_0(values: np.ndarray) -> np.ndarray:
    """Values through Q8_0, by its definition: 32 of them share a float16 scale, max / 127."""
    blocks = values.astype(np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    steps = blocks * inverse
    steps = np.trunc(steps + np.copysign(np.float32(0.5), steps))  # halves away from zero
    return (steps * scale.astype(np.float16).astype(np.float32)).reshape(values.shape)


def bf16(values: np.ndarray) -> np.ndarray:
    """Rounded to the upper 16 bits of float32, halves to even."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


ROUNDED = {
    "F32": lambda values: values.astype(np.float32),
    "F16": lambda values: values.astype(np.float16).astype(np.float32),
    "BF16": bf16,
    "Q8_0": q8_0,
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ROUNDED)
def test_every_value_is_in_the_file(tmp_path, name, kind):
    reader = write(tmp_path / "m.gguf", name, kind)
    want = expected_tensors(name)
    assert {tensor.name for tensor in reader.tensors} == set(want)
    for tensor in reader.tensors:
        values = want[tensor.name]
        assert tensor.shape.tolist() == list(values.shape[::-1]), tensor.name
        got = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
        rounded = ROUNDED[tensor.tensor_type.name](values)
        tolerance = 1e-6 if tensor.name.endswith("ssm_a") else 0
        np.testing.assert_allclose(got, rounded, rtol=tolerance, atol=0, err_msg=tensor.name)


@pytest.mark.parametrize("case", CONVERTER)
def test_the_file_is_that_of_llama_cpps_converter(tmp_path, case):
    name, kind = case.split()
    reader = write(tmp_path / "m.gguf", name, kind)
    got = {
        tensor.name: f"{tensor.tensor_type.name} {tensor.shape.tolist()[::-1]} "
        f"{zlib.crc32(tensor.data.tobytes()):08x}"
        for tensor in reader.tensors
    }
    want = CONVERTER[case]["tensors"]
    # The last bit of an exponential depends on who computes it.
    assert {n: v for n, v in got.items() if n[-5:] != "ssm_a"} == {
        n: v for n, v in want.items() if n[-5:] != "ssm_a"
    }
    found = metadata(reader)
    assert {key: found.get(key) for key in CONVERTER[case]["metadata"]} == CONVERTER[case][
        "metadata"
    ]


def test_metadata_have_the_converters_types_and_the_text_is_there(tmp_path):
    reader = write(tmp_path / "m.gguf", "dense", "F16")
    types = {key: [kind.name for kind in field.types] for key, field in reader.fields.items()}
    for key, kind in {
        "general.file_type": ["UINT32"],
        "general.sampling.temp": ["FLOAT32"],
        "general.sampling.top_k": ["INT32"],
        "qwen35.rope.freq_base": ["FLOAT32"],
        "qwen35.attention.recurrent_layers": ["ARRAY", "BOOL"],
        "qwen35.rope.dimension_sections": ["ARRAY", "INT32"],
        "tokenizer.ggml.token_type": ["ARRAY", "INT32"],
        "tokenizer.ggml.tokens": ["ARRAY", "STRING"],
        "tokenizer.ggml.add_bos_token": ["BOOL"],
        "tokenizer.ggml.eos_token_id": ["UINT32"],
    }.items():
        assert types[key] == kind, key
    found = metadata(reader)
    assert found["general.name"] == "Small"
    assert len(found["tokenizer.ggml.tokens"]) == config_of("dense").vocab_size
    again = text_files(found)
    assert again.tokenizer == text_files(SMALL).tokenizer
    assert again.chat_template == SMALL["tokenizer.chat_template"]
    assert again.generation_config == SAMPLING | {"do_sample": True, "eos_token_id": [5]}


def test_no_mtp_head_adds_no_block(tmp_path):
    config = config_of("dense")
    source = Source(config)
    source.tensors = {n: v for n, v in source.tensors.items() if not n.startswith("mtp.")}
    write_gguf(tmp_path / "m.gguf", source, config, text(), "F16", name="x")
    found = metadata(gguf.GGUFReader(tmp_path / "m.gguf"))
    assert found["qwen35.block_count"] == config.num_hidden_layers
    assert "qwen35.nextn_predict_layers" not in found
    assert found["qwen35.attention.recurrent_layers"] == [True, True, True, False]


def test_rows_that_are_no_blocks_of_q8_0_become_f16(tmp_path):
    config = replace(config_of("dense"), intermediate_size=80)
    plan = write_gguf(tmp_path / "m.gguf", Source(config), config, text(), "Q8_0", name="x")
    kinds = {tensor.name: tensor.kind.name for tensor in plan}
    assert kinds["blk.0.ffn_down.weight"] == "F16"
    assert kinds["blk.0.ffn_up.weight"] == "Q8_0"
    read = {t.name: t.tensor_type.name for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    assert read == kinds


@pytest.mark.parametrize("name", ["dense", "moe"])
def test_tensors_are_read_once_and_in_pieces(tmp_path, monkeypatch, name):
    monkeypatch.setattr(write_plan, "CHUNK_ELEMENTS", 1000)
    config = config_of(name)
    source = Source(config)
    steps: list[tuple[int, int, str]] = []
    plan = write_gguf(
        tmp_path / "m.gguf",
        source,
        config,
        text(),
        "BF16",
        name="x",
        progress=lambda *step: steps.append(step),
    )
    for tensor, shape in ((name, value.shape) for name, value in source.tensors.items()):
        reads = sorted(read for read in source.reads if read[0] == tensor)
        assert [row for _, a, b, _ in reads for row in range(a, b)] == list(range(shape[0]))
        row = int(np.prod(shape[1:], dtype=int))
        assert all(size <= max(1000, row) for *_, size in reads)
    nbytes = sum(tensor.nbytes for tensor in plan)
    assert steps[-1][:2] == (nbytes, nbytes)
    assert [done for done, *_ in steps] == sorted({done for done, *_ in steps})


@pytest.mark.parametrize(
    ("value", "kind", "fault"),
    [
        (70_000.0, "F16", "70000"),
        (1e7, "Q8_0", "1e+07"),
        (float("nan"), "BF16", "nan"),
        (float("-inf"), "F32", "inf"),
        (float("nan"), "Q8_0", "nan"),
    ],
)
def test_a_value_that_does_not_fit_is_named_and_nothing_is_left(tmp_path, value, kind, fault):
    config = config_of("dense")
    source = Source(config)
    name = "model.layers.1.mlp.up_proj.weight"
    source.tensors[name] = mx.where(mx.arange(64) == 7, mx.array(value), source.tensors[name])
    with pytest.raises(Qwen35Error) as caught:
        write_gguf(tmp_path / "new" / "m.gguf", source, config, text(), kind, name="x")
    assert name in str(caught.value)
    assert fault in str(caught.value)
    assert listing(tmp_path) == set()


def test_a_block_of_tiny_values_becomes_zero_without_a_warning(tmp_path, recwarn):
    config = config_of("dense")
    source = Source(config)
    name = "model.embed_tokens.weight"
    source.tensors[name] = mx.full(source.shape(name), 1e-42)
    write_gguf(tmp_path / "m.gguf", source, config, text(), "Q8_0", name="x")
    tensor = gguf.GGUFReader(tmp_path / "m.gguf").tensors[0]
    assert not gguf.dequantize(tensor.data, tensor.tensor_type).any()
    assert not recwarn.list


def test_interrupted_it_leaves_nothing(tmp_path):
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    config = config_of("dense")
    with pytest.raises(KeyboardInterrupt):
        write_gguf(
            tmp_path / "m.gguf", Source(config), config, text(), "F16", name="x", progress=stop
        )
    assert listing(tmp_path) == set()


def test_a_file_that_is_there_is_kept(tmp_path):
    config, out = config_of("dense"), tmp_path / "m.gguf"
    out.write_text("mine")
    with pytest.raises(Qwen35Error, match="exists already"):
        write_gguf(out, Source(config), config, text(), "F16", name="x")
    out.unlink()
    with pytest.raises(FileExistsError):
        write_gguf(
            out,
            Source(config),
            config,
            text(),
            "F16",
            name="x",
            progress=lambda *_: out.write_text("mine") and None,
        )
    assert out.read_text() == "mine"
    assert listing(tmp_path) == {"m.gguf"}


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / ".m.gguf.partial-999999999").write_text("half")
    (tmp_path / ".m.gguf.partial-x").write_text("not ours")
    assert remove_leftovers(tmp_path / "m.gguf") == []
    assert listing(tmp_path) == {".m.gguf.partial-x"}


def test_tensors_that_do_not_fit_are_refused():
    config = config_of("dense")
    name = "model.layers.0.linear_attn.in_proj_z.weight"

    def refused(**changes: mx.array | None) -> str:
        source = Source(config)
        source.tensors |= {key: value for key, value in changes.items() if value is not None}
        for key in [key for key, value in changes.items() if value is None]:
            del source.tensors[key]
        with pytest.raises(Qwen35Error) as caught:
            plan_tensors(source, config, "F16")
        return str(caught.value)

    assert "missing" in refused(**{name: None})
    assert "[3, 4]" in refused(**{name: mx.zeros((3, 4))})
    assert "'model.extra'" in refused(**{"model.extra": mx.zeros((3,))})


@pytest.mark.parametrize(
    ("changes", "kind", "fault"),
    [
        ({}, "Q4_0", "choose one of F32, F16, BF16, Q8_0"),
        ({"linear_key_head_dim": 16}, "F16", "linear_key_head_dim"),
    ],
)
def test_a_model_that_gguf_cannot_say_is_refused(changes, kind, fault):
    config = replace(config_of("dense"), **changes)
    with pytest.raises(Qwen35Error, match=fault):
        plan_tensors(Source(config), config, kind)


@pytest.mark.parametrize(
    ("name", "value"), [("mscale", 0.5), ("attention_factor", 1.2), ("truncate", False)]
)
def test_a_yarn_setting_without_a_key_is_refused(tmp_path, name, value):
    config = config_of("dense-yarn")
    scaling = {**(config.rope.scaling or {}), name: value}
    config = replace(config, rope=replace(config.rope, scaling=scaling))
    with pytest.raises(Qwen35Error, match=f"'{name}'"):
        write_gguf(tmp_path / "m.gguf", Source(config), config, text(), "F16", name="x")
    assert listing(tmp_path) == set()


def test_the_ramp_of_yarn_is_written(tmp_path):
    config = config_of("dense-yarn")
    scaling = {**(config.rope.scaling or {}), "beta_fast": 24.0, "beta_slow": 2.0}
    config = replace(config, rope=replace(config.rope, scaling=scaling))
    write_gguf(tmp_path / "m.gguf", Source(config), config, text(), "F16", name="x")
    found = metadata(gguf.GGUFReader(tmp_path / "m.gguf"))
    assert found["qwen35.rope.scaling.yarn_beta_fast"] == 24
    assert found["qwen35.rope.scaling.yarn_beta_slow"] == 2
