"""Names and plain shapes of all tensors of a network: the only table of them."""

from qwen35_mlx.model.config import ModelConfig

Shapes = dict[str, tuple[int, ...]]


def trunk_tensors(config: ModelConfig) -> Shapes:
    """Shapes of the text network's tensors, by canonical name, in the order of a forward pass."""
    hidden = config.hidden_size
    shapes: Shapes = {"model.embed_tokens.weight": (config.vocab_rows, hidden)}
    for i, kind in enumerate(config.layer_types):
        shapes |= layer_tensors(
            f"model.layers.{i}.", config, full_attention=kind == "full_attention"
        )
    shapes["model.norm.weight"] = (hidden,)
    if not config.tie_word_embeddings:
        shapes["lm_head.weight"] = (config.vocab_rows, hidden)
    return shapes


def mtp_tensors(config: ModelConfig) -> Shapes:
    """Shapes of the multi-token-prediction head's tensors, by canonical name.

    A checkpoint has all of them or none, whatever `mtp_num_hidden_layers` in config.json is.
    """
    hidden = config.hidden_size
    shapes: Shapes = {
        "mtp.pre_fc_norm_embedding.weight": (hidden,),
        "mtp.pre_fc_norm_hidden.weight": (hidden,),
        "mtp.fc.weight": (hidden, 2 * hidden),
    }
    for i in range(max(1, config.mtp_num_hidden_layers)):
        shapes |= layer_tensors(f"mtp.layers.{i}.", config, full_attention=True)
    shapes["mtp.norm.weight"] = (hidden,)
    return shapes


def is_zero_centred_norm(name: str) -> bool:
    """Whether a tensor of this canonical name is a norm (1 + w) of which Hugging Face stores w.

    The gated norm of a delta-net layer multiplies by w itself.
    """
    last = name.removesuffix(".weight").rpartition(".")[2]
    is_norm = last.endswith("norm") or last.startswith("pre_fc_norm")
    return is_norm and not name.endswith("linear_attn.norm.weight")


def layer_tensors(prefix: str, config: ModelConfig, *, full_attention: bool) -> Shapes:
    """Shapes of one layer's tensors, by names that begin with `prefix`."""
    hidden = config.hidden_size
    shapes: Shapes = {"input_layernorm.weight": (hidden,)}
    shapes |= _attention(config) if full_attention else _delta_net(config)
    shapes["post_attention_layernorm.weight"] = (hidden,)
    shapes |= _moe(config) if config.num_experts else _glu("mlp.", config.intermediate_size, hidden)
    return {prefix + name: shape for name, shape in shapes.items()}


def _attention(config: ModelConfig) -> Shapes:
    hidden, width = config.hidden_size, config.head_dim
    query = config.num_attention_heads * width
    kv = config.num_key_value_heads * width
    return {
        # Each head's query is followed by its output gate.
        "self_attn.q_proj.weight": (2 * query, hidden),
        "self_attn.k_proj.weight": (kv, hidden),
        "self_attn.v_proj.weight": (kv, hidden),
        "self_attn.o_proj.weight": (hidden, query),
        "self_attn.q_norm.weight": (width,),
        "self_attn.k_norm.weight": (width,),
    }


def _delta_net(config: ModelConfig) -> Shapes:
    hidden, heads = config.hidden_size, config.linear_num_value_heads
    channels, values = config.linear_conv_dim, config.linear_value_dim
    return {
        "linear_attn.in_proj_qkv.weight": (channels, hidden),
        "linear_attn.in_proj_z.weight": (values, hidden),
        "linear_attn.in_proj_b.weight": (heads, hidden),
        "linear_attn.in_proj_a.weight": (heads, hidden),
        "linear_attn.conv1d.weight": (channels, config.linear_conv_kernel_dim, 1),
        "linear_attn.A_log": (heads,),
        "linear_attn.dt_bias": (heads,),
        "linear_attn.norm.weight": (config.linear_value_head_dim,),
        "linear_attn.out_proj.weight": (hidden, values),
    }


def _moe(config: ModelConfig) -> Shapes:
    hidden, experts, width = config.hidden_size, config.num_experts, config.moe_intermediate_size
    return {
        "mlp.gate.weight": (experts, hidden),
        "mlp.shared_expert_gate.weight": (1, hidden),
        **_glu("mlp.shared_expert.", config.shared_expert_intermediate_size, hidden),
        **_glu("mlp.switch_mlp.", width, hidden, experts),
    }


def _glu(prefix: str, width: int, hidden: int, *stack: int) -> Shapes:
    """gate, up and down projections of a SwiGLU, or stacks of them."""
    return {
        prefix + "gate_proj.weight": (*stack, width, hidden),
        prefix + "up_proj.weight": (*stack, width, hidden),
        prefix + "down_proj.weight": (*stack, hidden, width),
    }
