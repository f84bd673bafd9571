"""A question to the user with two answers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and what it is about.

    Attributes:
        text: what it is about, which may be long.
        yes, no: the answers.
    """

    title: str
    text: str
    yes: str
    no: str
