"""Which form of each operation a network runs.

An operation has a plain reference and other forms that are faster somewhere. What is faster, and
whether it is right, only the machine at hand can tell: `check` tries them there.
"""

from dataclasses import dataclass

REFERENCE = "reference"


@dataclass(slots=True)
class KernelSelection:
    """The form of each operation, by name; shared by all layers of a network.

    Attributes:
        delta_decode: a Gated DeltaNet layer between its projections, for a few tokens; see
            `delta_net.STEPS`.
        delta_prefill: the same for many tokens; see `delta_net.PROMPTS`.
        experts_decode: a sparse MoE block for a few tokens; see `experts.KERNEL`.
        experts_prefill: how many tokens are arranged by their experts; see `model.moe.BLOCKS`.
        matmul_prefill: the product of many tokens with a packed matrix; see `quantized.FORMS`.
        qk_norm_rope: queries and keys between their projection and the cache, for a few tokens;
            see `qk_norm_rope`.
        decode_attention: attention of one token, with its gate; see `attend`.
        prefill_attention: causal attention of many tokens; see `model.attention.FUSED`.
        matmul_decode: a packed matrix times one token, with the norm before it and the residual sum
            after it; see `matvec`.
        compiled: whether layers are compiled for a few tokens, so that a step is built by MLX
            from a recording and not by Python.
    """

    delta_decode: str = REFERENCE
    delta_prefill: str = REFERENCE
    experts_decode: str = REFERENCE
    experts_prefill: str = REFERENCE
    matmul_prefill: str = REFERENCE
    qk_norm_rope: str = REFERENCE
    decode_attention: str = REFERENCE
    prefill_attention: str = REFERENCE
    matmul_decode: str = REFERENCE
    compiled: bool = False
