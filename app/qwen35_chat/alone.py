"""Starts the chat again in this process without other processes that run the model.

MLX cannot be used again after it has waited in vain for another process, so a new program replaces
this one.
"""

import argparse
import os
import sys
from collections.abc import Sequence

from qwen35_mlx.distributed.place import environment_alone


class GoAloneError(Exception):
    """The user goes on with this machine alone.

    Attributes:
        conversation: its id; None for a new one.
    """

    def __init__(self, conversation: int | None):
        super().__init__()
        self.conversation = conversation


class LostError(Exception):
    """The chat has ended after another process was lost.

    Attributes:
        code: for the exit.
    """

    def __init__(self, code: int):
        super().__init__()
        self.code = code


def arguments_alone(
    words: Sequence[str], args: argparse.Namespace, conversation: int | None
) -> list[str]:
    """The arguments that go on with a conversation alone.

    Args:
        words: of the command line that this process was started with.
        args: the same, parsed.
    """
    left_out = {"--hosts": args.hosts, "--parallel": args.parallel, "--resume": args.resume}
    message = list(args.message)
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name in left_out:
            if not equals and rest and rest[0] == left_out[name]:
                rest.pop(0)
        elif message and word == message[0]:
            message.pop(0)  # it was sent
        elif word not in ("--continue", "--"):
            kept.append(word)
    return kept if conversation is None else [*kept, "--resume", str(conversation)]


def start_alone(words: Sequence[str], arguments: Sequence[str]) -> None:
    """Replace this program by the same with other arguments; does not return.

    Args:
        words: the arguments that it was started with, the last of its command line.
    """
    before = sys.orig_argv[1 : len(sys.orig_argv) - len(words)]
    command = [sys.executable, *before, *arguments]
    os.execve(sys.executable, command, environment_alone())
