"""The MTP head of a checkpoint that is converted: how its norms are read."""

from qwen35_mlx.checkpoint.checkpoint import Checkpoint
from qwen35_mlx.checkpoint.mtp import head_norms
from qwen35_mlx.checkpoint.mtp_confirmation import confirm_head
from qwen35_mlx.checkpoint.mtp_norms import describe
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.evaluation.mtp import checkpoint_agreement
from qwen35_mlx.evaluation.text import built_in_texts, make_documents
from qwen35_mlx.text.tokenizer import Tokenizer

_TOKENS = 384

_HARM = "if that is wrong, its guesses are rejected, and replies stay the same"
_ADVICE = "A conversion to a folder with --verify-text FILE tries it on text of the right kind"


def confirm_mtp_norms(
    checkpoint: Checkpoint, run: bool, text: str | None = None
) -> tuple[Checkpoint, list[str]]:
    """The checkpoint with the reading of its head's norms that guesses best on a text.

    Nothing is run if the files leave no doubt on it.

    Args:
        run: whether the head may be run; if not, its values decide.
        text: to run it on; None for the one of the package.

    Returns:
        The checkpoint, and lines for the user.
    """
    norms = checkpoint.mtp_norms
    if norms is None or norms.certain:
        return checkpoint, []
    reading = describe(norms.raw, head_norms(checkpoint.model))
    line = f"norms of the MTP head are read as {reading}, by their values only"
    if not run:
        return checkpoint, [f"{line}: {_HARM}"]
    try:
        tokenizer = Tokenizer.from_files(checkpoint.text)
        documents = make_documents(tokenizer, built_in_texts() if text is None else [text], _TOKENS)
        agreement = checkpoint_agreement(checkpoint, documents)
        checkpoint, found = confirm_head(checkpoint, agreement)
    except Qwen35Error as error:
        return checkpoint, [f"{line}: {error}. {_HARM[0].upper()}{_HARM[1:]}. {_ADVICE}"]
    return checkpoint, [found.line] if found else []
