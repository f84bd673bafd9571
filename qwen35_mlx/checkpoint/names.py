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

# The expert tensors of Hugging Face: one per expert and projection, or one for all experts in
# which gate and up may be fused.
EXPERTS = re.compile(
    r"(?P<mlp>.+\.mlp)\.experts\.(?:"
    r"(?P<expert>0|[1-9][0-9]{0,5})\.(?P<projection>gate_proj|up_proj|down_proj)"
    r"|(?P<fused>gate_up_proj|gate_proj|up_proj|down_proj))"
)


def canonical_name(stored_name: str) -> str | None:
    """The canonical name of a tensor in a file.

    None for one of the vision tower, and for frequencies that config.json gives.
    """
    name = stored_name
    while wrapper := next((w for w in _WRAPPERS if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    for wrapped in (".base_layer.", ".original_module."):
        name = name.replace(wrapped, ".")
    # Both prefixes occur together, in either order, and alone.
    inner = name
    for prefix in ("model.", "language_model.", "model."):
        inner = inner.removeprefix(prefix)
    if inner.startswith(_VISION) or inner.endswith(".rotary_emb.inv_freq"):
        return None
    if inner.startswith(_BARE_PARTS):
        return f"model.{inner}"
    if inner.startswith(("lm_head.", "mtp.")):
        return inner
    return name
