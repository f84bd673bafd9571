"""The tokenizer, chat template and sampling settings in the metadata of a GGUF file.

Keys and values are llama.cpp's: `tokenizer.ggml.*` as its `llama-vocab.cpp` reads them,
`tokenizer.chat_template`, and `general.sampling.*`. A byte-level BPE is `gpt2` there, and `pre`
names how text is split before the merges. The normaliser is not in the file: Qwen's is NFC.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import MAX_FILE_BYTES
from qwen35_mlx.json_text import write_json
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.untrusted_json import Fields

MODEL = "gpt2"
# Values of `tokenizer.ggml.token_type`. Byte tokens do not occur in a byte-level BPE.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
MAX_TOKENS = 1 << 20  # four times those of Qwen3.5; also the most merges

_TAIL = r"]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# The regex of each `pre`: Qwen3.5 keeps combining marks with the letters before them.
PATTERNS: Mapping[str, str] = {
    "qwen35": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}" + _TAIL,
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}"
    + _TAIL,
}
# `tokenizer.ggml.NAME_token_id` for each token that tokenizer_config.json names.
NAMED_TOKENS = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding"}
# Keys of `general.sampling.`, and their names in generation_config.json.
SAMPLING = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_repeat": "repetition_penalty",
}
_END_KEYS = ("eos", "eot", "eom")
# llama.cpp ends a reply at these whatever the metadata name.
END_NAMES = ("<|im_end|>", "<|endoftext|>")
_DECODER = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
_ADVICE = "take the GGUF file of another publisher, or the original checkpoint"


def text_files(metadata: Mapping[str, Any], path: Path) -> TextFiles:
    """The text files that the metadata of a GGUF file stand for.

    tokenizer.json encodes like the one that the file was made from. Unused tokens, which pad the
    vocabulary to the size of the embedding, are left out.

    Args:
        metadata: by key, as Python's own types; arrays as sequences.
        path: of the file.

    Raises:
        Qwen35Error: the tokenizer is missing, damaged or not Qwen's kind.
    """
    source = str(path)
    fields = Fields(metadata, source)
    tokens = _strings(metadata, "tokenizer.ggml.tokens", source)
    types = _types(metadata, len(tokens), source)
    used = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    if len(used) != len(tokens) - types.count(UNUSED):
        twice = next(t for i, t in enumerate(tokens) if types[i] != UNUSED and used[t] != i)
        raise Qwen35Error(f"{source} has the token {shown(twice)} twice: {_ADVICE}")
    added = [i for i, kind in enumerate(types) if kind in (UNKNOWN, CONTROL, USER_DEFINED)]
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "",
        "end_of_word_suffix": "",
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        # Added tokens too: the library then takes their ids from here, also where there are gaps.
        "vocab": used,
        "merges": _merges(metadata, used, source),
    }
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(i, tokens[i], types[i] != USER_DEFINED) for i in added],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": _pattern(fields)},
                    "behavior": "Isolated",
                    "invert": False,
                },
                _DECODER | {"use_regex": False},
            ],
        },
        "post_processor": _DECODER | {"use_regex": False},
        "decoder": _DECODER | {"use_regex": False},
        "model": model,
    }
    return TextFiles(
        path=path,
        tokenizer=write_json(tokenizer, separators=(",", ":")),
        tokenizer_config=_tokenizer_config(fields, tokens),
        chat_template=_chat_template(metadata, source),
        generation_config=_generation_config(fields, tokens, used, types),
    )


def _strings(metadata: Mapping[str, Any], key: str, source: str) -> list[str]:
    """An array of strings.

    Raises:
        Qwen35Error: it is missing, not such an array, or larger than any tokenizer's.
    """
    values = metadata.get(key)
    if values is None:
        raise Qwen35Error(f"{source} has no '{key}': {_ADVICE}")
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise Qwen35Error(f"{source}: '{key}' is not a list of strings: {_ADVICE}")
    if len(values) > MAX_TOKENS:
        raise Qwen35Error(
            f"{source}: '{key}' has {len(values):,} entries, more than {MAX_TOKENS:,}, the most"
            f" that is supported: {_ADVICE}"
        )
    try:
        size = len("".join(values).encode())
    except (TypeError, UnicodeEncodeError):
        raise Qwen35Error(f"{source}: '{key}' holds what is no text: {_ADVICE}") from None
    if size > MAX_FILE_BYTES:
        raise Qwen35Error(f"{source}: '{key}' has {size:,} bytes, more than {MAX_FILE_BYTES:,}")
    return list(values)


def _types(metadata: Mapping[str, Any], count: int, source: str) -> list[int]:
    """The type of each token."""
    key = "tokenizer.ggml.token_type"
    values = metadata.get(key)
    if values is None:
        raise Qwen35Error(f"{source} has no '{key}', which marks control tokens: {_ADVICE}")
    try:
        types = np.asarray(values)
    except (TypeError, ValueError):  # of lists inside the list
        types = np.empty(())
    valid = types.shape == (count,) and types.dtype.kind in "iu"
    if not valid or np.any((types < NORMAL) | (types > BYTE)):
        raise Qwen35Error(
            f"{source}: '{key}' is not a number from {NORMAL} to {BYTE} for each of the"
            f" {count:,} tokens: {_ADVICE}"
        )
    return [int(kind) for kind in types]


def _merges(metadata: Mapping[str, Any], used: Mapping[str, int], source: str) -> list[str]:
    """The merges, "LEFT RIGHT" each: two tokens that make a third one."""
    merges = _strings(metadata, "tokenizer.ggml.merges", source)
    for merge in merges:
        left, _, right = merge.partition(" ")
        if left not in used or right not in used or left + right not in used or " " in right:
            raise Qwen35Error(
                f"{source}: the merge {shown(merge)} is not of two tokens to a third: {_ADVICE}"
            )
    return merges


def _pattern(fields: Fields) -> str:
    model = fields.text("tokenizer.ggml.model", "")
    if model != MODEL:
        raise Qwen35Error(
            f"{fields.source} has a tokenizer of the kind {shown(model)}, and Qwen3.5's is"
            f" '{MODEL}', a byte-level BPE: {_ADVICE}"
        )
    pre = fields.text("tokenizer.ggml.pre", "qwen35")
    if pre not in PATTERNS:
        raise Qwen35Error(
            f"{fields.source} splits text as {shown(pre)} ('tokenizer.ggml.pre'), which is none of"
            f" {', '.join(PATTERNS)}: {_ADVICE}"
        )
    return PATTERNS[pre]


def _added(token_id: int, token: str, special: bool) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
    }


def _tokenizer_config(fields: Fields, tokens: Sequence[str]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": fields.flag("tokenizer.ggml.add_bos_token"),
        "clean_up_tokenization_spaces": False,
    }
    for name, key in NAMED_TOKENS.items():
        for token_id in _token_ids(fields, key, tokens):
            config[name] = tokens[token_id]
    return config


def _token_ids(fields: Fields, key: str, tokens: Sequence[str]) -> tuple[int, ...]:
    """The id that `tokenizer.ggml.KEY_token_id` gives; none if it is missing."""
    name = f"tokenizer.ggml.{key}_token_id"
    ids = fields.token_ids(name)
    if any(i >= len(tokens) for i in ids):
        raise Qwen35Error(
            f"{fields.source}: '{name}' is {shown(fields.values[name])}, and there are"
            f" {len(tokens):,} tokens: {_ADVICE}"
        )
    return ids


def _chat_template(metadata: Mapping[str, Any], source: str) -> str | None:
    """The default template: llama.cpp's unnamed one, else the one that is named so."""
    for key in ("tokenizer.chat_template", "tokenizer.chat_template.default"):
        template = metadata.get(key)
        if template is None:
            continue
        if not isinstance(template, str):
            raise Qwen35Error(f"{source}: '{key}' is {shown(template)}, not a text: {_ADVICE}")
        return template
    return None


def _generation_config(
    fields: Fields, tokens: Sequence[str], used: Mapping[str, int], types: Sequence[int]
) -> dict[str, Any]:
    config: dict[str, Any] = {}
    ends = [i for key in _END_KEYS for i in _token_ids(fields, key, tokens)]
    named = (used[name] for name in END_NAMES if name in used)
    ends += [i for i in named if types[i] == CONTROL]
    if ends:
        config["eos_token_id"] = list(dict.fromkeys(ends))
    for key, name in SAMPLING.items():
        if fields.values.get(f"general.sampling.{key}") is not None:
            config[name] = _short(fields.number(f"general.sampling.{key}"))
    if "temperature" in config:
        config["do_sample"] = config["temperature"] > 0
    return config


def _short(value: float) -> float:
    """The shortest number that is the same in float32: 0.95, not 0.949999988079071."""
    return value if isinstance(value, int) else float(str(np.float32(value)))
