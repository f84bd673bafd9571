"""Bytes that the caches of a network take. Never imports mlx."""

from qwen35_mlx.model.config import ModelConfig

KV_GROUP = 32  # values that share a scale and a bias in a quantised KV cache


def kv_bytes_per_token(config: ModelConfig, itemsize: int, kv_bits: int | None = None) -> int:
    """Bytes of keys and values for one token, in all full-attention layers together.

    Args:
        itemsize: bytes of an activation.
        kv_bits: bits of a quantised key or value; None if they are not quantised.
    """
    layers = config.layer_types.count("full_attention")
    values = 2 * config.num_key_value_heads * config.head_dim
    bytes_per_value = itemsize if kv_bits is None else kv_bits / 8 + 2 * itemsize / KV_GROUP
    return int(layers * values * bytes_per_value)


def state_bytes(config: ModelConfig, itemsize: int) -> int:
    """Bytes of recurrent state (float32) and convolution state of all DeltaNet layers together."""
    layers = config.layer_types.count("linear_attention")
    recurrent = config.linear_value_dim * config.linear_key_head_dim * 4
    convolution = (config.linear_conv_kernel_dim - 1) * config.linear_conv_dim * itemsize
    return layers * (recurrent + convolution)
