"""Which form of each operation a network runs.

An operation has a plain reference and other forms that are faster somewhere. What is faster, and
whether it is right, only the machine at hand can tell: `check` tries them there.
"""

from dataclasses import dataclass

REFERENCE = "reference"


@dataclass(slots=True)
class Choices:
    """The form of each operation, by name; shared by all layers of a network.

    Attributes:
        delta_step: a Gated DeltaNet layer between its projections, for a few tokens; see
            `delta_net.STEPS`.
        delta_prompt: the same for many tokens; see `delta_net.PROMPTS`.
        experts_step: a sparse MoE block for a few tokens; see `experts.KERNEL`.
        experts_prompt: how many tokens are arranged by their experts; see `model.moe.BLOCKS`.
        matrix_prompt: the product of many tokens with a packed matrix; see `quantized.FORMS`.
        attention_step: queries and keys between their projection and the cache, for a few tokens;
            see `attention_inputs`.
        attend_step: attention of one token, with its gate; see `attend`.
        attention_prompt: causal attention of many tokens; see `model.attention.FUSED`.
        matrix_step: a packed matrix times one token, with the norm before it and the residual sum
            after it; see `matvec`.
        compiled: whether layers are compiled for a few tokens, so that a step is built by MLX
            from a recording and not by Python.
    """

    delta_step: str = REFERENCE
    delta_prompt: str = REFERENCE
    experts_step: str = REFERENCE
    experts_prompt: str = REFERENCE
    matrix_prompt: str = REFERENCE
    attention_step: str = REFERENCE
    attend_step: str = REFERENCE
    attention_prompt: str = REFERENCE
    matrix_step: str = REFERENCE
    compiled: bool = False
