"""What a list of models reads of a GGUF file."""

import random
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qwen35_mlx.checkpoint.gguf import header
from qwen35_mlx.checkpoint.gguf_summary import gguf_summary
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.memory import kv_bytes_per_token, state_bytes
from tests.checkpoint.gguf_files import SIZES, write_gguf


def test_the_sizes_of_a_dense_model(tmp_path: Path):
    path = write_gguf(tmp_path / "m.gguf")
    fields, size = gguf_summary(path)
    config = ModelConfig.from_dict(fields)
    assert (config.model_type, config.vocab_size) == ("qwen3_5", 1000)
    # The layer of the MTP head is not one of the network's 32.
    assert config.layer_types.count("full_attention") == 8
    assert config.layer_types.count("linear_attention") == 24
    assert config.max_position_embeddings == 262_144
    # By hand: 8 layers x keys and values x 4 heads x 256 x 2 bytes; 24 layers x 32 heads x 128 x
    # 128 x 4 bytes, and 24 x 3 steps x 8,192 channels x 2 bytes.
    assert kv_bytes_per_token(config, 2) == 32_768
    assert state_bytes(config, 2) == 50_331_648 + 1_179_648
    assert size == path.stat().st_size


def test_the_sizes_of_a_mixture_of_experts(tmp_path: Path):
    sizes = SIZES | {
        "expert_count": 256,
        "expert_used_count": 8,
        "expert_feed_forward_length": 512,
        "expert_shared_feed_forward_length": 500,
        # By layer, as some converters write it.
        "attention.head_count_kv": [0, 0, 0, 2] * 8 + [2],
    }
    config = ModelConfig.from_dict(gguf_summary(write_gguf(tmp_path / "m", sizes, "qwen35moe"))[0])
    assert (config.num_experts, config.num_experts_per_tok) == (256, 8)
    assert (config.moe_intermediate_size, config.shared_expert_intermediate_size) == (512, 500)
    assert config.num_key_value_heads == 2


def test_the_recurrent_layers_may_be_a_list(tmp_path: Path):
    sizes = SIZES | {"attention.recurrent_layers": [False, True, True] * 11}
    fields, _ = gguf_summary(write_gguf(tmp_path / "m.gguf", sizes))
    kinds = ModelConfig.from_dict(fields).layer_types
    assert [i for i, kind in enumerate(kinds) if kind == "full_attention"] == list(range(0, 32, 3))


def test_all_parts_count(tmp_path: Path):
    first = write_gguf(tmp_path / "m-00001-of-00002.gguf")
    with pytest.raises(Qwen35Error, match=r"m-00002-of-00002.gguf cannot be read \(No such file"):
        gguf_summary(first)
    (tmp_path / "m-00002-of-00002.gguf").write_bytes(bytes(12_345))
    assert gguf_summary(first)[1] == first.stat().st_size + 12_345


def test_another_architecture_has_no_sizes(tmp_path: Path):
    path = write_gguf(tmp_path / "m-00001-of-00002.gguf", architecture="llama")
    assert gguf_summary(path) == ({}, 0)


def test_the_vocabulary_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = write_gguf(tmp_path / "m.gguf", vocabulary=50_000)
    furthest = 0
    original = header.read_exactly

    def watched(file: Any, out: memoryview, offset: int) -> None:
        nonlocal furthest
        original(file, out, offset)
        furthest = offset + len(out)

    monkeypatch.setattr(header, "read_exactly", watched)
    assert gguf_summary(path)[0]["text_config"]["vocab_size"] == 50_000
    assert 0 < furthest <= 4096 < path.stat().st_size / 100


def test_a_header_that_ends_early_is_one_line(tmp_path: Path):
    whole = write_gguf(tmp_path / "m.gguf").read_bytes()
    end = whole.index(b"tokenizer.ggml.tokens")
    path = tmp_path / "cut.gguf"
    for length in range(0, end, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(Qwen35Error, match=r"cut.gguf is (truncated|not a GGUF file)"):
            gguf_summary(path)


def entry(name: bytes, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(name)) + name + struct.pack("<I", kind) + value


HUGE = 1 << 60


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GGML" + bytes(40), "is not a GGUF file"),
        (struct.pack("<4sIQQ", b"GGUF", 1, 0, 0), "of version 1, and"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "is a big-endian"),
        (struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, HUGE), "is truncated|more than 3,000,000 texts"),
        (entry(b"a", 8, struct.pack("<Q", HUGE)), "is truncated|more than 3,000,000 texts"),
        (entry(b"a", 9, struct.pack("<IQ", 4, HUGE)), "is truncated|more than 3,000,000 texts"),
        (entry(b"a", 9, struct.pack("<IQ", 8, HUGE)), "is truncated|more than 3,000,000 texts"),
        (entry(b"a", 9, struct.pack("<IQ", 9, 1)), "an array of the type 9"),
        (entry(b"a", 77, b""), "the unknown type 77"),
    ],
)
def test_a_damaged_header_is_one_line(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "m.gguf"
    header = b"" if content[:4] in (b"GGUF", b"GGML") else struct.pack("<4sIQQ", b"GGUF", 3, 0, 1)
    path.write_bytes(header + content)
    with pytest.raises(Qwen35Error, match=f"m.gguf .*({reason}).*: "):
        gguf_summary(path)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"block_count": 0}, "'block_count' is 0"),
        ({"block_count": "33"}, "'block_count' is '33'"),
        ({"attention.head_count_kv": [0]}, "'attention.head_count_kv' is"),
        ({"ssm.time_step_rank": 0}, "'ssm.time_step_rank' is 0"),
        ({"ssm.inner_size": "wide"}, "'ssm.inner_size' is 'wide'"),
    ],
)
def test_a_size_that_is_none_is_named(tmp_path: Path, changes: dict[str, Any], field: str):
    with pytest.raises(Qwen35Error, match=f"m.gguf.*{field}"):
        gguf_summary(write_gguf(tmp_path / "m.gguf", SIZES | changes))


def test_any_bytes_are_sizes_or_one_line(tmp_path: Path):
    whole = write_gguf(tmp_path / "m.gguf", vocabulary=3).read_bytes()
    end = whole.index(b"tokenizer.ggml.tokens") + 60
    rng = random.Random(5)
    path = tmp_path / "damaged.gguf"
    for _ in range(400):
        damaged = bytearray(whole)
        for _ in range(rng.choice((1, 1, 4))):
            at = rng.randrange(8, end)
            length = rng.choice((1, 2, 8))
            damaged[at : at + length] = rng.choice((bytes(length), b"\xff" * length, b"\x01"))
        path.write_bytes(damaged)
        with suppress(Qwen35Error):
            config = ModelConfig.from_dict(gguf_summary(path)[0])
            kv_bytes_per_token(config, 2)


def test_a_file_that_is_not_regular_is_one_line(tmp_path: Path):
    (tmp_path / "m.gguf").mkdir()
    with pytest.raises(Qwen35Error, match=r"m.gguf.*not a regular file"):
        gguf_summary(tmp_path / "m.gguf")
