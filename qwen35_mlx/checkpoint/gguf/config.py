"""config.json of a GGUF file, from its metadata and the shapes of its tensors. No MLX.

llama.cpp's converter writes the metadata from config.json
(conversion/base.py and conversion/qwen.py of https://github.com/ggml-org/llama.cpp); this is the
way back.
"""

import struct
from array import array
from collections.abc import Mapping
from typing import Any

from qwen35_mlx.checkpoint.gguf.file import GGUFFile
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.model.config import MAX_LAYERS
from qwen35_mlx.untrusted_json import Fields

EMBEDDINGS, HEAD = "token_embd.weight", "output.weight"

# May be a list, with a number for each block and 0 where the block has no such thing.
_OF_LAYERS = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")
_YARN_NUMBERS = {
    "yarn_attn_factor": "attention_factor",
    "yarn_beta_fast": "beta_fast",
    "yarn_beta_slow": "beta_slow",
}
# llama.cpp scales by these too; config.json has no such settings.
_NEUTRAL = {
    "rope.scaling.attn_factor": (1,),
    "rope.scaling.yarn_ext_factor": (-1, 1),
    "rope.scaling.yarn_log_multiplier": (0,),
    "rope.scale_linear": (0, 1),
}


def config_of_file(file: GGUFFile) -> dict[str, Any]:
    """config.json as Hugging Face's checkpoints of the same model have it, text network only.

    The vocabulary is as long as the embeddings; they are tied if there is no `output.weight`.

    Raises:
        Qwen35Error: an entry is missing, has the wrong type, or is not supported.
    """
    tied = HEAD not in file.tensors
    return config_from_metadata(file.metadata, str(file.path), _vocabulary(file), tied=tied)


def config_from_metadata(
    metadata: Mapping[str, Any], source: str, vocabulary: int, *, tied: bool
) -> dict[str, Any]:
    """As `config_of_file`, of what stands before the tensors.

    `num_hidden_layers` is `block_count` without the MTP layers, which llama.cpp counts as blocks.

    Args:
        metadata: of one of `ARCHITECTURES`.
        source: the file, as error lines name it.
        vocabulary: rows of the embeddings.
        tied: whether they are the output head too.
    """
    prefix = f"{metadata['general.architecture']}."
    values = {
        name.removeprefix(prefix): value
        for name, value in metadata.items()
        if name.startswith(prefix)
    }
    values |= {name: _one_value(values.get(name)) for name in _OF_LAYERS}
    fields = Fields(values, source)
    for name, neutral in _NEUTRAL.items():
        if name in values and values[name] not in neutral:
            raise Qwen35Error(
                f"{source}: '{name}' is {shown(values[name])}, which is not supported: "
                "choose another file"
            )
    is_sparse = prefix == "qwen35moe."
    blocks = fields.whole("block_count", high=MAX_LAYERS)
    mtp_layers = fields.whole("nextn_predict_layers", 0, low=0)
    if mtp_layers >= blocks:
        raise Qwen35Error(
            f"{source}: 'nextn_predict_layers' {mtp_layers} is not less than 'block_count' "
            f"{blocks}: fetch the file again"
        )
    layers = blocks - mtp_layers
    value_heads = fields.whole("ssm.time_step_rank")
    inner, head_dim = fields.whole("ssm.inner_size"), fields.whole("attention.key_length")
    if inner % value_heads:
        raise Qwen35Error(
            f"{source}: 'ssm.inner_size' {inner} is not a multiple of 'ssm.time_step_rank' "
            f"{value_heads}: fetch the file again"
        )
    text: dict[str, Any] = {
        "model_type": "qwen3_5_moe_text" if is_sparse else "qwen3_5_text",
        "vocab_size": vocabulary,
        "hidden_size": fields.whole("embedding_length"),
        "num_hidden_layers": layers,
        "layer_types": _layer_types(fields, blocks)[:layers],
        "rms_norm_eps": _shortest(fields.number("attention.layer_norm_rms_epsilon", 1e-6)),
        "max_position_embeddings": fields.whole("context_length"),
        "tie_word_embeddings": tied,
        "rope_parameters": _rope(fields, head_dim),
        "num_attention_heads": fields.whole("attention.head_count"),
        "num_key_value_heads": fields.whole("attention.head_count_kv"),
        "head_dim": head_dim,
        "linear_num_key_heads": fields.whole("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": fields.whole("ssm.state_size"),
        "linear_value_head_dim": inner // value_heads,
        "linear_conv_kernel_dim": fields.whole("ssm.conv_kernel"),
        "mtp_num_hidden_layers": mtp_layers,
    }
    if is_sparse:
        text |= {
            "num_experts": fields.whole("expert_count"),
            "num_experts_per_tok": fields.whole("expert_used_count"),
            "moe_intermediate_size": fields.whole("expert_feed_forward_length"),
            "shared_expert_intermediate_size": fields.whole("expert_shared_feed_forward_length"),
        }
    else:
        text["intermediate_size"] = fields.whole("feed_forward_length")
    family = "Qwen3_5Moe" if is_sparse else "Qwen3_5"
    return {
        "architectures": [f"{family}ForConditionalGeneration"],
        "model_type": text["model_type"].removesuffix("_text"),
        "tie_word_embeddings": text["tie_word_embeddings"],
        "text_config": text | _token_ids(Fields(metadata, source)),
    }


def heads_are_tiled(file: GGUFFile) -> bool:
    """Whether the value heads are in ggml's order, see `TiledHeads`; only Ollama's files say so.

    Raises:
        Qwen35Error: the entry is neither true nor false.
    """
    name = f"{file.metadata['general.architecture']}.ssm.v_head_reordered"
    return Fields(file.metadata, str(file.path)).flag(name, default=True)


def _one_value(value: Any) -> Any:
    """The value of an array whose values are equal, but for zeros; anything else as it is."""
    if not isinstance(value, array):
        return value
    different = set(value) - {0}
    return different.pop() if len(different) == 1 else value


def _shortest(value: float) -> float:
    """The shortest decimal number that is the same float32: 1e-06, not 9.999999974752427e-07."""
    short = float(f"{value:.7g}")
    try:
        return short if struct.pack("f", short) == struct.pack("f", value) else value
    except OverflowError:
        return value


def _vocabulary(file: GGUFFile) -> int:
    embeddings = file.tensors.get(EMBEDDINGS)
    if embeddings is None or len(embeddings.shape) != 2:
        raise Qwen35Error(f"{file.path} has no matrix '{EMBEDDINGS}': fetch it again")
    return embeddings.shape[0]


def _layer_types(fields: Fields, blocks: int) -> list[str]:
    """The kind of each block, by a list of the recurrent ones or by the interval of the others."""
    recurrent = fields.values.get("attention.recurrent_layers")
    if recurrent is None:
        interval = fields.whole("full_attention_interval", 4)
        recurrent = [(i + 1) % interval for i in range(blocks)]
    elif isinstance(recurrent, int):
        recurrent = [recurrent] * blocks
    elif not isinstance(recurrent, array) or len(recurrent) != blocks:
        raise Qwen35Error(
            f"{fields.source}: 'attention.recurrent_layers' is not a list of {blocks}: "
            "fetch the file again"
        )
    return ["linear_attention" if one else "full_attention" for one in recurrent]


def _rope(fields: Fields, head_dim: int) -> dict[str, Any]:
    rotated = fields.whole("rope.dimension_count", max(1, head_dim // 4))
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": _shortest(fields.number("rope.freq_base", 1e7)),
        "partial_rotary_factor": rotated / head_dim,
    }
    sections = fields.values.get("rope.dimension_sections")
    if isinstance(sections, array):
        rope |= {"mrope_section": list(sections)[:3], "mrope_interleaved": True}
    kind = fields.text("rope.scaling.type", "none")
    if kind == "none":
        return rope
    if kind != "yarn":
        raise Qwen35Error(
            f"{fields.source}: 'rope.scaling.type' is {shown(kind)}, and this version supports "
            "only none and yarn: choose another file"
        )
    rope |= {
        "rope_type": "yarn",
        "factor": _shortest(fields.number("rope.scaling.factor")),
        "original_max_position_embeddings": fields.whole("rope.scaling.original_context_length"),
    }
    for name, ours in _YARN_NUMBERS.items():
        if f"rope.scaling.{name}" in fields.values:
            rope[ours] = _shortest(fields.number(f"rope.scaling.{name}"))
    return rope


def _token_ids(fields: Fields) -> dict[str, Any]:
    """Ids of the tokens that end a reply, and of padding."""
    ends = [
        i
        for kind in ("eos", "eot", "eom")
        for i in fields.token_ids(f"tokenizer.ggml.{kind}_token_id")
    ]
    ids: dict[str, Any] = {}
    if ends:
        unique = list(dict.fromkeys(ends))
        ids["eos_token_id"] = unique[0] if len(unique) == 1 else unique
    for i in fields.token_ids("tokenizer.ggml.padding_token_id"):
        ids["pad_token_id"] = i
    return ids
