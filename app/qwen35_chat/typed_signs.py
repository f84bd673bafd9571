"""Signs that input methods type in place of those with which commands begin.

On the keys of `/` and `!` a Chinese one has `、` and `！`; others have `／`. `mentions` takes `＠`.
"""

_SIGNS = str.maketrans("、／！", "//!")


def with_ascii_sign(text: str) -> str:
    """The text, with the sign at its start as commands have it; its length stays."""
    return text[:1].translate(_SIGNS) + text[1:]
