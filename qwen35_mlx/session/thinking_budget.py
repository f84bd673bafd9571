"""A budget of thinking: when it is spent, a text that closes the thinking joins the reply.

The model goes on from there as if it had written the text itself, and answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from qwen35_mlx.generation.sampling_parameters import NO_LIMIT
from qwen35_mlx.text.tokenizer import Tokenizer

# As the guide to thinking budgets in the documentation of Qwen3 gives it.
CLOSING = (
    "\n\nConsidering the limited time by the user, I have to give the solution based on the"
    " thinking directly now.\n</think>\n\n"
)


@dataclass(frozen=True, slots=True)
class ThinkingBudget:
    """How much a reply may think.

    Attributes:
        tokens: of thinking; 0 closes it at once.
        closing: the tokens of the text that closes it.
    """

    tokens: int
    closing: tuple[int, ...]

    @classmethod
    def of(cls, tokens: int | None, tokenizer: Tokenizer) -> "ThinkingBudget | None":
        """A budget with the closing text of Qwen's models; None for no limit."""
        if tokens is None or tokens == NO_LIMIT:
            return None
        return cls(tokens, tuple(tokenizer.encode_prompt(CLOSING)))

    def forced(self, spent: int, room: int) -> Sequence[int]:
        """The tokens to force now, within thinking.

        Args:
            spent: tokens of thinking so far.
            room: tokens that the reply may still have. Without room for an answer none are forced.
        """
        return self.closing if spent >= self.tokens and room > len(self.closing) else ()
