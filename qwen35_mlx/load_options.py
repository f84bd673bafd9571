"""The options of commands that load a model, and types of options. Never imports MLX."""

import argparse
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from qwen35_mlx import demo
from qwen35_mlx.errors import Qwen35Error
from qwen35_mlx.generation.sampling_parameters import Range
from qwen35_mlx.user_paths import shown

POSITIVE = Range(1, whole=True)


def number_in(bounds: Range, description: str = "") -> Callable[[str], float]:
    """An argparse type for the numbers of a range.

    Args:
        description: of the range, for the error; the default is the range's own.
    """
    number = int if bounds.whole else float

    def parse(text: str) -> float:
        with suppress(ValueError, OverflowError):
            value = number(text)
            if bounds.contains(value):
                return value
        raise argparse.ArgumentTypeError(f"'{shown(text)}' is not {description or bounds}")

    return parse


def add_load_options(parser: argparse.ArgumentParser, default_model: str) -> None:
    """Add what names a model and says how it is loaded.

    Args:
        default_model: of the command, for the help.
    """
    add = parser.add_argument
    add(
        "-m",
        "--model",
        metavar="NAME",
        help='a folder, a GGUF file, or "org/repo" on the Hugging Face Hub, with ":Q4_K_M" for one '
        f"GGUF file of it; default: {default_model}",
    )
    add("--revision", metavar="REV", help="branch, tag or commit on the Hub")
    add(
        "--adapter-path",
        metavar="PATH",
        help="a LoRA adapter for the model: a folder, or org/repo on the Hub",
    )
    add(
        "--context",
        type=number_in(POSITIVE),
        metavar="N",
        help="tokens of prompt and reply together; YaRN extends the model's own limit up to four "
        "times",
    )
    add(
        "--kv-bits",
        type=int,
        choices=(8,),
        help="quantise keys and values to 8 bits: about half their memory, slightly less exact",
    )
    add(
        "--mtp",
        choices=("auto", "off", *"123456"),
        metavar="auto|off|N",
        help="guess tokens and verify them together: auto as many as are fastest, N (1 to 6) "
        "always as many by the model's MTP head; default: auto, or the chat's setting",
    )


def model_name(args: argparse.Namespace) -> str:
    """The model that the options name; the demo model if they name none.

    Raises:
        Qwen35Error: the name is empty.
    """
    if args.model is not None and not args.model.strip():
        raise Qwen35Error("--model is empty: name a folder or an org/repo, or leave it out")
    return args.model or demo.NAME


def load_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `qwen35_mlx.load` but for the model, its revision and `mtp`."""
    return {name: getattr(args, name) for name in ("context", "kv_bits", "adapter_path")}


def drafting(mtp: str) -> str | int:
    """A value of `--mtp` or of the setting, as `qwen35_mlx.load` takes it."""
    return int(mtp) if mtp.isdecimal() else mtp
