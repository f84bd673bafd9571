"""The texts that models are measured on, cut into documents of token ids."""

from collections.abc import Sequence
from importlib.resources import files
from itertools import pairwise
from typing import TYPE_CHECKING

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import read_text
from qwen35_mlx.user_paths import user_path

if TYPE_CHECKING:
    from qwen35_mlx.text.tokenizer import Tokenizer

# Longer texts are cut: attention costs time and memory by the square of a document.
MAX_DOCUMENT = 2048
# Of all documents together, unless another number is given.
DEFAULT_TOKENS = 4096
_NAMES = ("prose", "code", "chinese", "arithmetic")


def built_in_texts() -> list[str]:
    """Texts of four kinds: English prose, code, Chinese and arithmetic; some 3,000 tokens."""
    folder = files("qwen35_mlx.evaluation") / "texts"
    return [(folder / f"{name}.txt").read_text(encoding="utf-8") for name in _NAMES]


def read_user_text(option: str, name: str) -> str:
    """The text of a file that a user names by an option.

    Raises:
        Qwen35Error: it cannot be read, or is not UTF-8.
    """
    try:
        return read_text(user_path(name))
    except Qwen35Error:
        raise Qwen35Error(
            f"{option} {shown(name)} is not a text file in UTF-8 that can be read: check the path"
        ) from None


def make_documents(
    tokenizer: "Tokenizer", texts: Sequence[str], tokens: int = DEFAULT_TOKENS
) -> list[list[int]]:
    """Token ids of texts, in documents of `MAX_DOCUMENT` tokens at most.

    Args:
        tokens: the most that all documents have together. Of several texts, each gives the same
            share of its tokens, from its start.

    Raises:
        Qwen35Error: no document would have two tokens, so that there is nothing to predict.
    """
    encoded = [tokenizer.encode(text) for text in texts]
    total = sum(map(len, encoded))
    documents: list[list[int]] = []
    for ids in encoded:
        ids = ids[: -(-len(ids) * tokens // max(total, 1))]
        # Pieces of equal length: a short rest would predict from little.
        pieces = -(-len(ids) // MAX_DOCUMENT)
        cuts = [len(ids) * i // pieces for i in range(pieces)] + [len(ids)] if pieces else []
        documents += [ids[a:b] for a, b in pairwise(cuts) if b - a > 1]
    if not documents:
        raise Qwen35Error(f"the text has {total} tokens: give one of 2 or more")
    return documents


def tokenizer_difference(
    a: "Tokenizer", b: "Tokenizer", texts: Sequence[str], names: tuple[str, str] = ("A", "B")
) -> str | None:
    """In what two tokenizers differ, or None if ids mean the same to both.

    A token that one of them lacks is no difference, unless it occurs in the texts: some
    checkpoints list the padding of the vocabulary as tokens, others do not.

    Args:
        names: of the two models, for the line.
    """
    tokens_a, tokens_b = ({i: t for t, i in one.vocabulary().items()} for one in (a, b))
    for token in sorted(tokens_a.keys() & tokens_b.keys()):
        if tokens_a[token] != tokens_b[token]:
            return (
                f"token {token} is {shown(tokens_a[token])} in {names[0]} and "
                f"{shown(tokens_b[token])} in {names[1]}"
            )
    for text in texts:
        ids_a, ids_b = a.encode(text), b.encode(text)
        if ids_a != ids_b:
            pairs = enumerate(zip(ids_a, ids_b, strict=False))
            first = next((i for i, (x, y) in pairs if x != y), min(len(ids_a), len(ids_b)))
            context = a.decode(ids_a[max(0, first - 2) : first + 2])
            return f"{names[0]} and {names[1]} split the text differently at {shown(context)}"
    return None
