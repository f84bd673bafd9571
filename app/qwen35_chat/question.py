"""A question to the user with two answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what it is about.

    Attributes:
        summary: what matters of it, a few lines.
        text: the rest, which may be long.
        yes, no: the answers.
    """

    title: str
    summary: str
    text: str
    yes: str
    no: str
