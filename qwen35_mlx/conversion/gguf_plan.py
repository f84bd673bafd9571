"""Which tensors a GGUF file of Qwen3.5 gets: names, types and order of values.

The rules are those of llama.cpp's converter (`conversion/qwen.py`, `conversion/base.py`).
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import gguf
import mlx.core as mx

from qwen35_mlx.checkpoint.gguf.blocks import CHUNK_ELEMENTS
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import Shapes, mtp_tensors, trunk_tensors

GgufType = gguf.GGMLQuantizationType
# What most matrices may be; the keys are the names that users give.
TYPES = {kind.name: kind for kind in (GgufType.F32, GgufType.F16, GgufType.BF16, GgufType.Q8_0)}

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "mtp.fc": "nextn.eh_proj",
    "mtp.pre_fc_norm_embedding": "nextn.enorm",
    "mtp.pre_fc_norm_hidden": "nextn.hnorm",
    "mtp.norm": "nextn.shared_head_norm",
}
_LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_qkv.weight": "attn_qkv.weight",
    "linear_attn.in_proj_z.weight": "attn_gate.weight",
    "linear_attn.in_proj_b.weight": "ssm_beta.weight",
    "linear_attn.in_proj_a.weight": "ssm_alpha.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.switch_mlp.gate_proj.weight": "ffn_gate_exps.weight",
    "mlp.switch_mlp.up_proj.weight": "ffn_up_exps.weight",
    "mlp.switch_mlp.down_proj.weight": "ffn_down_exps.weight",
}
_LAYER = re.compile(r"(?P<part>model|mtp)\.layers\.(?P<index>\d+)\.(?P<rest>.+)")
# Matrices that stay float32 in a file of any type, as all vectors do.
_FLOAT32 = ("ssm_conv1d.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")


class TensorSource(Protocol):
    """Plain tensors of a model by canonical name."""

    def names(self) -> frozenset[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def read(self, name: str, start: int = 0, stop: int | None = None) -> mx.array: ...


@dataclass(frozen=True, slots=True)
class HeadOrder:
    """Value heads of a DeltaNet layer, which llama.cpp keeps in another order.

    Grouped: the heads that share a key head follow each other. Tiled, in GGUF: the first head of
    each key head, then the second of each, and so on.

    Attributes:
        width: rows or columns of a head.
        start: of the first head; what is before stays in place.
        columns: whether the heads are in the columns, not in the rows.
    """

    key_heads: int
    value_heads: int
    width: int
    start: int = 0
    columns: bool = False

    def row_ranges(self) -> Iterator[tuple[int, int]]:
        """Rows of the grouped tensor, in the order of the tiled one."""
        if self.start:
            yield 0, self.start
        per_key = self.value_heads // self.key_heads
        for i in range(self.value_heads):
            head = i % self.key_heads * per_key + i // self.key_heads
            begin = self.start + head * self.width
            yield begin, begin + self.width

    def tile_columns(self, rows: mx.array) -> mx.array:
        """Rows [n, heads * width] of the grouped tensor as they are in the tiled one."""
        heads = rows.reshape(rows.shape[0], self.key_heads, -1, self.width)
        return heads.swapaxes(1, 2).reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of a GGUF file.

    Attributes:
        name: in the file.
        source: its canonical name.
        shape: in the file, rows first; the file itself lists the sizes in reverse.
        kind: how values are stored.
        order: of value heads, None where nothing moves.
    """

    name: str
    source: str
    shape: tuple[int, ...]
    kind: GgufType
    order: HeadOrder | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the values, without the padding behind them."""
        block, size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block * size

    def chunks(self, source: TensorSource) -> Iterator[mx.array]:
        """The values in the order of the file, some rows at a time."""
        order = self.order
        by_rows = order is not None and not order.columns
        ranges = order.row_ranges() if order and by_rows else ((0, self.shape[0]),)
        step = max(1, CHUNK_ELEMENTS // max(1, math.prod(self.shape[1:])))
        for begin, end in ranges:
            for start in range(begin, end, step):
                rows = source.read(self.source, start, min(start + step, end))
                rows = rows.reshape(-1, *self.shape[1:])
                if self.name.endswith("ssm_a"):
                    rows = -mx.exp(rows.astype(mx.float32))
                elif order is not None and order.columns:
                    rows = order.tile_columns(rows)
                mx.eval(rows)
                yield rows


def check_type(kind: str) -> None:
    """Check that matrices can be written in a type.

    Raises:
        Qwen35Error: they cannot.
    """
    if kind not in TYPES:
        raise Qwen35Error(
            f"GGUF type {kind!r} is not written here: choose one of {', '.join(TYPES)}; "
            "llama.cpp's llama-quantize makes other types from such a file"
        )


def plan_tensors(source: TensorSource, config: ModelConfig, kind: str) -> tuple[PlannedTensor, ...]:
    """The tensors of a GGUF file, in the order of a forward pass.

    Args:
        kind: a key of `TYPES`. Vectors, convolutions and routers stay float32; a matrix whose rows
            do not divide into blocks of Q8_0 becomes F16.

    Raises:
        Qwen35Error: `kind` is unknown, a tensor is missing, unknown or of another shape, or
            llama.cpp cannot compute such a model.
    """
    check_type(kind)
    if config.linear_key_head_dim != config.linear_value_head_dim:
        raise Qwen35Error(
            f"config.json: 'linear_key_head_dim' {config.linear_key_head_dim} differs from"
            f" 'linear_value_head_dim' {config.linear_value_head_dim}, which GGUF cannot say:"
            " write no GGUF file of this model"
        )
    return tuple(
        _planned(name, shape, config, TYPES[kind])
        for name, shape in _checked_shapes(source, config).items()
    )


def has_mtp(source: TensorSource) -> bool:
    """Whether the source has a multi-token-prediction head."""
    return any(name.startswith("mtp.") for name in source.names())


def _checked_shapes(source: TensorSource, config: ModelConfig) -> Shapes:
    shapes = trunk_tensors(config) | (mtp_tensors(config) if has_mtp(source) else {})
    names = source.names()
    for name, shape in shapes.items():
        if name not in names or source.shape(name) != shape:
            found = list(source.shape(name)) if name in names else "missing"
            raise Qwen35Error(
                f"'{name}' is {found}, and config.json wants {list(shape)}: fetch it again"
            )
    if unknown := sorted(names - shapes.keys()):
        raise Qwen35Error(f"'{unknown[0]}' has no name in GGUF: fetch the checkpoint again")
    return shapes


def _planned(
    source: str, shape: tuple[int, ...], config: ModelConfig, kind: GgufType
) -> PlannedTensor:
    name = _gguf_name(source, config)
    suffix = name.rpartition(".")[0].rpartition(".")[2] + "." + name.rpartition(".")[2]
    if suffix == "ssm_conv1d.weight":
        shape = shape[:2]
    if len(shape) == 1 or suffix in _FLOAT32:
        kind = GgufType.F32
    elif shape[-1] % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = GgufType.F16
    return PlannedTensor(name, source, shape, kind, _head_order(source, config))


def _gguf_name(name: str, config: ModelConfig) -> str:
    layers = config.num_hidden_layers
    if match := _LAYER.fullmatch(name):
        block = int(match["index"]) + (layers if match["part"] == "mtp" else 0)
        return f"blk.{block}.{_LAYER_NAMES[match['rest']]}"
    own = _NAMES[name.removesuffix(".weight")]
    return f"{f'blk.{layers}.' if name.startswith('mtp.') else ''}{own}.weight"


def _head_order(source: str, config: ModelConfig) -> HeadOrder | None:
    """The order of value heads in a tensor, None if there are none or both orders are the same."""
    key_heads, value_heads = config.linear_num_key_heads, config.linear_num_value_heads
    width, queries_and_keys = config.linear_value_head_dim, 2 * config.linear_key_dim
    part = source.partition(".linear_attn.")[2]
    if key_heads == value_heads:
        return None
    match part.removesuffix(".weight"):
        case "in_proj_qkv" | "conv1d":
            return HeadOrder(key_heads, value_heads, width, queries_and_keys)
        case "in_proj_z":
            return HeadOrder(key_heads, value_heads, width)
        case "in_proj_b" | "in_proj_a" | "A_log" | "dt_bias":
            return HeadOrder(key_heads, value_heads, 1)
        case "out_proj":
            return HeadOrder(key_heads, value_heads, width, columns=True)
    return None
