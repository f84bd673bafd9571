"""Names of tensors: from those in the files of any tool to canonical ones.

Canonical names are mlx-lm's, without the prefix `language_model.`. `model.weight_shapes` lists
them.
"""

import re

# Put before all names by torch.compile, DataParallel and PEFT, in any order.
_WRAPPERS = ("_orig_mod.", "module.", "base_model.model.")
# Of a save by AutoModel, which has no `model.` before the parts of the text model.
_BARE_PARTS = ("layers.", "embed_tokens.", "norm.")
_VISION = ("visual.", "vision_tower.", "vision_model.", "multi_modal_projector.")

# Ends of names of what the network does not read: scales of quantised activations and of a
# quantised KV cache, which belong to the kernels of other programs.
_UNREAD = re.compile(
    r"\.(?:input_scale|input_global_scale|activation_scale|input_zero_point"
    r"|[qkv]_scale|kv_scale|output_scale|[kv]_zero_point)"
)

# The expert tensors of Hugging Face: one per expert and projection, or one for all experts in
# which gate and up may be fused.
EXPERTS = re.compile(
    r"(?P<mlp>.+\.mlp)\.experts\.(?:"
    r"(?P<expert>0|[1-9][0-9]{0,5})\.(?P<projection>gate_proj|up_proj|down_proj)"
    r"|(?P<fused>gate_up_proj|gate_proj|up_proj|down_proj))"
)
_FUSED_PART = re.compile(r"(.+\.experts\.(?:gate_up_proj|gate_proj|up_proj|down_proj))_(.+)")


def canonical_name(stored_name: str) -> str | None:
    """The canonical name of a tensor in a file; None for one of the vision tower."""
    name = stored_name
    while wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    name = name.replace(".base_layer.", ".")
    # Both prefixes occur together, in either order, and alone.
    inner = name
    for prefix in ("model.", "language_model.", "model."):
        inner = inner.removeprefix(prefix)
    if inner.startswith(_VISION):
        return None
    if inner.startswith(_BARE_PARTS):
        return f"model.{inner}"
    if inner.startswith(("lm_head.", "mtp.")):
        return inner
    return name


def is_unread(name: str) -> bool:
    """Whether a tensor of a canonical name holds nothing that the network reads."""
    return name.endswith(".rotary_emb.inv_freq") or bool(_UNREAD.search(name))


def split_part(name: str) -> tuple[str, str]:
    """The module of a tensor, and which part of the module's weight it is.

    model.norm.weight -> model.norm, weight
    model.layers.0.mlp.experts.down_proj_scale -> model.layers.0.mlp.experts.down_proj, scale
    model.layers.0.linear_attn.A_log -> model.layers.0.linear_attn.A_log, ""
    """
    if EXPERTS.fullmatch(name):
        return name, "weight"
    if fused := _FUSED_PART.fullmatch(name):
        part = fused[2]
        return fused[1], f"weight_{part}" if part.startswith("scale") else part
    if name.endswith((".A_log", ".dt_bias")) or "." not in name:
        return name, ""
    module, _, part = name.rpartition(".")
    return module, part
