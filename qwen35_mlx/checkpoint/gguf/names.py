"""The tensors of a GGUF file under their canonical names, with the converter's changes undone.

llama.cpp's converter (conversion/qwen.py of https://github.com/ggml-org/llama.cpp) stores norms
as 1 + w, `ssm_a` as -exp(A_log), the convolution without its axis of one, and, where there are
more value heads than key heads, the value heads in another order: see `TiledHeads`.
"""

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from qwen35_mlx.checkpoint import recipes
from qwen35_mlx.checkpoint.gguf.blocks import (
    BlockReader,
    Runs,
    StoredRows,
    TiledHeads,
    is_readable,
)
from qwen35_mlx.checkpoint.gguf.config import EMBEDDINGS, HEAD, heads_are_tiled
from qwen35_mlx.checkpoint.gguf.file import GGUFFile
from qwen35_mlx.checkpoint.gguf.header import GGUFTensor
from qwen35_mlx.checkpoint.gguf.packing import packed_matrix
from qwen35_mlx.checkpoint.tensor_readers import Matrix
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.model.config import ModelConfig
from qwen35_mlx.model.weight_shapes import mtp_tensors, trunk_tensors

_OUTPUT_NORM = "output_norm.weight"
_GLOBAL = {
    EMBEDDINGS: "model.embed_tokens.weight",
    _OUTPUT_NORM: "model.norm.weight",
    HEAD: "lm_head.weight",
}
_MTP_NORM = "mtp.norm.weight"
_MTP = {
    "nextn.eh_proj.weight": "mtp.fc.weight",
    "nextn.enorm.weight": "mtp.pre_fc_norm_embedding.weight",
    "nextn.hnorm.weight": "mtp.pre_fc_norm_hidden.weight",
    "nextn.shared_head_norm.weight": _MTP_NORM,
}
_BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "attn_q_norm.weight": "self_attn.q_norm.weight",
    "attn_k_norm.weight": "self_attn.k_norm.weight",
    "attn_qkv.weight": "linear_attn.in_proj_qkv.weight",
    "attn_gate.weight": "linear_attn.in_proj_z.weight",
    "ssm_alpha.weight": "linear_attn.in_proj_a.weight",
    "ssm_beta.weight": "linear_attn.in_proj_b.weight",
    "ssm_conv1d.weight": "linear_attn.conv1d.weight",
    "ssm_a": "linear_attn.A_log",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_dt": "linear_attn.dt_bias",  # of Ollama
    "ssm_norm.weight": "linear_attn.norm.weight",
    "ssm_out.weight": "linear_attn.out_proj.weight",
    "ffn_gate_inp.weight": "mlp.gate.weight",
    "ffn_gate_inp_shexp.weight": "mlp.shared_expert_gate.weight",
    **{
        f"ffn_{name}{theirs}.weight": f"mlp.{ours}{name}_proj.weight"
        for name in ("gate", "up", "down")
        for theirs, ours in (("", ""), ("_shexp", "shared_expert."), ("_exps", "switch_mlp."))
    },
}
_FUSED_EXPERTS = "ffn_gate_up_exps.weight"
_FUSED_ATTENTION = "attn_qkv.weight"

_IN_BLOCK = re.compile(r"blk\.(?P<block>0|[1-9][0-9]{0,3})\.(?P<name>.+)")
# Vision, the MTP layer as Ollama stores and ignores it, frequencies that this architecture does not
# use, scales of activations, and copies of the embeddings and the head for the MTP layer.
_UNUSED = re.compile(
    r"(v|mm|mtp)\..*|rope_(freqs|factors_long|factors_short)\.weight|.*\.input_scale"
    r"|blk\.\d+\.nextn\.(embed_tokens|shared_head_head)\.(weight|scale)"
)


@dataclass(frozen=True, slots=True)
class _Target:
    """One canonical tensor, or a part of several, that a stored tensor holds.

    Attributes:
        name: canonical.
        runs: makes its rows of the stored tensor, in the order of the model; None for all in order.
            Called when the shape is known to be right: before, there is no bound on them.
        heads: of its columns, as in `StoredRows`.
        stored: the shape of the stored tensor, if it holds several.
    """

    name: str
    runs: Callable[[], Runs] | None = None
    heads: TiledHeads | None = None
    stored: tuple[int, ...] | None = None


def model_tensors(file: GGUFFile, config: ModelConfig) -> tuple[dict[str, Matrix], tuple[str, ...]]:
    """The tensors of the model by canonical name, and the stored names that it does not use.

    Raises:
        Qwen35Error: a tensor is unknown, or of another shape or type than the model needs.
    """
    expected = trunk_tensors(config) | mtp_tensors(config)
    scales, stored, unused = _sort_out(file)
    tiled = heads_are_tiled(file)
    tensors: dict[str, Matrix] = {}
    for name, tensor in stored.items():
        targets = list(_targets(tensor, config, tiled))
        if not targets or any(target.name not in expected for target in targets):
            raise Qwen35Error(
                f"{tensor.path} has the unknown tensor '{name}': choose another file of this model"
            )
        scale = scales.pop(name.removesuffix(".weight") + ".scale", None)
        for target in targets:
            if target.name in tensors:
                raise Qwen35Error(
                    f"{tensor.path}: tensor '{name}' holds '{target.name}', and so does another: "
                    "fetch the file again"
                )
            tensors[target.name] = _matrix(tensor, target, expected[target.name], scale)
    for name, tensor in scales.items():
        raise Qwen35Error(f"{tensor.path} has '{name}' without its matrix: fetch it again")
    if any(name.startswith("mtp.") for name in tensors) and "model.norm.weight" in tensors:
        # llama.cpp uses the norm of the trunk where the MTP layer has none.
        tensors.setdefault(_MTP_NORM, tensors["model.norm.weight"])
    return tensors, unused


def _sort_out(
    file: GGUFFile,
) -> tuple[dict[str, GGUFTensor], dict[str, GGUFTensor], tuple[str, ...]]:
    """The factors of matrices, the tensors of the model, and the names of what is not used."""
    scales: dict[str, GGUFTensor] = {}
    stored: dict[str, GGUFTensor] = {}
    unused: list[str] = []
    for name, tensor in file.tensors.items():
        if _UNUSED.fullmatch(name):
            unused.append(name)
        else:
            (scales if name.endswith(".scale") else stored)[name] = tensor
    return scales, stored, tuple(unused)


def _targets(tensor: GGUFTensor, config: ModelConfig, tiled: bool) -> Iterator[_Target]:
    """What a stored tensor holds; nothing if its name is unknown."""
    if tensor.name in _GLOBAL:
        yield _Target(_GLOBAL[tensor.name])
    match = _IN_BLOCK.fullmatch(tensor.name)
    if match is None:
        return
    block, name = int(match["block"]), match["name"]
    mtp_layer = block - config.num_hidden_layers
    is_mtp = mtp_layer >= 0
    prefix = f"mtp.layers.{mtp_layer}." if is_mtp else f"model.layers.{block}."
    full_attention = is_mtp or config.layer_types[block] == "full_attention"
    if name in _MTP:
        if mtp_layer == 0:
            yield _Target(_MTP[name])
    elif name == _FUSED_EXPERTS:
        yield from _gate_and_up(prefix, config)
    elif name == _FUSED_ATTENTION and full_attention:
        yield from _query_key_value(prefix, config)
    elif name in _BLOCK:
        runs, heads = _value_heads(name, config) if tiled else (None, None)
        yield _Target(prefix + _BLOCK[name], runs, heads)


def _gate_and_up(prefix: str, config: ModelConfig) -> Iterator[_Target]:
    """The two halves of each expert's matrix."""
    experts, rows = config.num_experts, config.moe_intermediate_size

    def halves(half: int) -> Runs:
        return tuple(((2 * expert + half) * rows, rows) for expert in range(experts))

    for half, name in enumerate(("gate", "up")):
        yield _Target(
            f"{prefix}mlp.switch_mlp.{name}_proj.weight",
            partial(halves, half),
            stored=(experts, 2 * rows, config.hidden_size),
        )


def _query_key_value(prefix: str, config: ModelConfig) -> Iterator[_Target]:
    """Projections of full attention in one matrix: queries with their gates, keys, values."""
    kv_rows = config.num_key_value_heads * config.head_dim
    rows = {"q": 2 * config.num_attention_heads * config.head_dim, "k": kv_rows, "v": kv_rows}
    stored, first = (sum(rows.values()), config.hidden_size), 0
    for name, count in rows.items():
        runs = ((first, count),)
        yield _Target(f"{prefix}self_attn.{name}_proj.weight", lambda r=runs: r, stored=stored)
        first += count


def _value_heads(
    name: str, config: ModelConfig
) -> tuple[Callable[[], Runs] | None, TiledHeads | None]:
    """`_Target.runs` and `heads` of a tensor in a block, if it has a part for each value head."""
    key_heads, width = config.linear_num_key_heads, config.linear_value_head_dim
    per_key = config.linear_num_value_heads // key_heads
    if per_key == 1:
        return None, None
    heads, single = TiledHeads(key_heads, per_key, width), TiledHeads(key_heads, per_key, 1)
    match name:
        case "attn_qkv.weight" | "ssm_conv1d.weight":
            before = 2 * config.linear_key_dim
            return lambda: ((0, before), *heads.runs(before)), None
        case "attn_gate.weight":
            return heads.runs, None
        case "ssm_alpha.weight" | "ssm_beta.weight" | "ssm_a" | "ssm_dt.bias" | "ssm_dt":
            return single.runs, None
        case "ssm_out.weight":
            return None, heads
    return None, None


def _matrix(
    tensor: GGUFTensor, target: _Target, shape: tuple[int, ...], scale: GGUFTensor | None
) -> Matrix:
    """The reader of one canonical tensor of the shape that the model needs."""
    stored = target.stored or shape
    if _without_ones(tensor.shape) != _without_ones(stored):
        raise Qwen35Error(
            f"{tensor.path}: tensor '{tensor.name}' has shape {list(tensor.shape)} where its "
            f"metadata asks for {list(stored)}: fetch the file again"
        )
    is_convolution = target.name.endswith(".conv1d.weight")
    columns = shape[-2] if is_convolution else shape[-1] if len(shape) > 1 else 1
    if not is_readable(tensor.stored_dtype) or columns % tensor.block[0]:
        raise Qwen35Error(
            f"{tensor.path}: tensor '{tensor.name}' is {tensor.stored_dtype}, which is not read "
            "there: choose a file of another quantisation, such as Q8_0 or Q4_K_M"
        )
    if scale is not None and not (
        scale.stored_dtype == "F32" and scale.size in (1, shape[0] if len(shape) == 3 else 1)
    ):
        raise Qwen35Error(
            f"{scale.path}: tensor '{scale.name}' is {scale.stored_dtype} {list(scale.shape)}, "
            "which is no factor of its matrix: fetch the file again"
        )
    runs = target.runs() if target.runs else ((0, math.prod(shape) // columns),)
    rows = StoredRows(tensor, columns, runs, target.heads, scale)
    packed = packed_matrix(rows, shape) if recipes.is_quantizable(target.name, shape) else None
    return packed or BlockReader(rows, shape, is_decay=target.name.endswith(".A_log"))


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    """ggml has no axes of one at the end of its order, and the converter removes others."""
    return tuple(size for size in shape if size != 1)
