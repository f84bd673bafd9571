"""The metadata of a GGUF file that hold its tokenizer, chat template and sampling settings.

The inverse of `tokenizer.text_files`; keys, types and order are those of llama.cpp's converter.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from qwen35_mlx.checkpoint.gguf.tokenizer import (
    CONTROL,
    END_NAMES,
    MODEL,
    NAMED_TOKENS,
    NORMAL,
    PATTERNS,
    SAMPLING,
    UNUSED,
    USER_DEFINED,
)
from qwen35_mlx.errors import Qwen35Error, shown
from qwen35_mlx.files import one_line
from qwen35_mlx.text.text_files import TextFiles
from qwen35_mlx.untrusted_json import Fields, parse_json

_BPE_SWITCHES = (
    "dropout",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "byte_fallback",
    "ignore_merges",
)
_ADVICE = "take the tokenizer.json of the original checkpoint"


def text_metadata(text: TextFiles, vocab_size: int) -> dict[str, Any]:
    """Metadata by key, as Python's own types.

    Args:
        vocab_size: rows of the embedding; ids without a token become unused tokens.

    Raises:
        Qwen35Error: the tokenizer is not a byte-level BPE that splits text as Qwen's do, or has
            tokens beyond the embedding.
    """
    if text.tokenizer is None:
        raise Qwen35Error(f"{text.path} has no tokenizer.json: fetch it from the same model")
    tokenizer = _parsed(text.tokenizer)
    model, pre = _model(tokenizer), _pre(tokenizer)
    added = _added_tokens(tokenizer, text.tokenizer_config)
    types = dict.fromkeys(model["vocab"].values(), NORMAL) | {
        i: CONTROL if special else USER_DEFINED for i, (_, special) in added.items()
    }
    tokens = {i: token for token, i in model["vocab"].items()}
    tokens |= {i: token for i, (token, _) in added.items()}
    if not all(type(i) is int and 0 <= i < vocab_size for i in tokens):
        raise Qwen35Error(
            f"tokenizer.json has tokens beyond the {vocab_size:,} rows of the embedding: {_ADVICE}"
        )
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": MODEL,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [tokens.get(i, f"[PAD{i}]") for i in range(vocab_size)],
        "tokenizer.ggml.token_type": [types.get(i, UNUSED) for i in range(vocab_size)],
        "tokenizer.ggml.merges": _merges(model["merges"]),
    }
    named = _named_ids(text.tokenizer_config, {token: i for i, token in tokens.items()})
    metadata |= {f"tokenizer.ggml.{key}_token_id": i for key, i in named.items()}
    add_bos = Fields(text.tokenizer_config, "tokenizer_config.json").flag("add_bos_token")
    metadata["tokenizer.ggml.add_bos_token"] = add_bos and "bos" in named
    if text.chat_template:
        metadata["tokenizer.chat_template"] = text.chat_template
    return metadata


def sampling_metadata(generation_config: Mapping[str, Any]) -> dict[str, int | float]:
    """`general.sampling.*` of generation_config.json; none for a model that does not sample."""
    fields = Fields(generation_config, "generation_config.json")
    if not fields.flag("do_sample", default=True):
        return {}
    found: dict[str, int | float] = {}
    for key, name in SAMPLING.items():
        if generation_config.get(name) is not None:
            number = fields.number(name, low=-(2**31), high=2**31 - 1)
            found[f"general.sampling.{key}"] = int(number) if key == "top_k" else float(number)
    return found


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        tokenizer = parse_json(text)
    except ValueError as error:
        raise Qwen35Error(f"tokenizer.json is not JSON ({one_line(error)}): {_ADVICE}") from error
    if not isinstance(tokenizer, dict):
        raise Qwen35Error(f"tokenizer.json does not hold a JSON object: {_ADVICE}")
    return tokenizer


def _model(tokenizer: Mapping[str, Any]) -> Mapping[str, Any]:
    """The BPE model, with `vocab` and `merges` of the right kinds.

    Raises:
        Qwen35Error: it is another model, or one whose rules have no key in GGUF.
    """
    model = tokenizer.get("model")
    if not (
        isinstance(model, dict)
        and model.get("type", "BPE") == "BPE"
        and isinstance(model.get("vocab"), dict)
        and all(type(i) is int for i in model["vocab"].values())
        and isinstance(model.get("merges"), list)
    ):
        raise Qwen35Error(f"tokenizer.json is not a byte-level BPE, as Qwen3.5's is: {_ADVICE}")
    for switch in _BPE_SWITCHES:
        if model.get(switch):
            raise Qwen35Error(
                f"tokenizer.json: '{switch}' is {shown(model[switch])}, which GGUF cannot say:"
                f" {_ADVICE}"
            )
    return model


def _pre(tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name of the way in which `tokenizer` splits text.

    Raises:
        Qwen35Error: it has none.
    """
    normalizer = tokenizer.get("normalizer")
    match tokenizer.get("pre_tokenizer"):
        case {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated"},
                {"type": "ByteLevel", "use_regex": False, "add_prefix_space": False},
            ],
        } if normalizer is None or normalizer == {"type": "NFC"}:
            for name, known in PATTERNS.items():
                if pattern == known:
                    return name
    raise Qwen35Error(
        f"tokenizer.json splits text in a way that llama.cpp has no name for: {_ADVICE}"
    )


def _added_tokens(
    tokenizer: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[int, tuple[str, bool]]:
    """Text of each added token, and whether it is a control token, by id.

    A token written like `<|name|>` is one, whatever the files say, as in llama.cpp's converter.
    """
    found: dict[int, tuple[str, bool]] = {}
    try:
        configured = (config.get("added_tokens_decoder") or {}).items()
        listed = [(int(i), entry) for i, entry in configured]
        listed += [(entry["id"], entry) for entry in tokenizer.get("added_tokens") or []]
        for token_id, entry in listed:
            content = entry["content"]
            looks_special = content.startswith("<|") and content.endswith("|>")
            found[token_id] = content, bool(entry.get("special")) or looks_special
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise Qwen35Error(
            f"tokenizer.json has an added token without id or text ({one_line(error)}): {_ADVICE}"
        ) from error
    return found


def _named_ids(config: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """The ids of the tokens that tokenizer_config.json names, by their names in GGUF.

    Raises:
        Qwen35Error: none ends a reply. llama.cpp would end it at token 11, its default.
    """
    found: dict[str, int] = {}
    for name, key in NAMED_TOKENS.items():
        entry = config.get(name)
        token = entry.get("content") if isinstance(entry, Mapping) else entry
        if isinstance(token, str) and token in ids:
            found[key] = ids[token]
    if "eos" not in found:
        end = next((ids[name] for name in END_NAMES if name in ids), None)
        if end is None:
            raise Qwen35Error(
                f"the tokenizer has no token that ends a reply ({END_NAMES[0]}): {_ADVICE}"
            )
        found["eos"] = end
    return found


def _merges(merges: Sequence[Any]) -> list[str]:
    """Merges as "LEFT RIGHT", from that or from pairs."""
    lines: list[str] = []
    for merge in merges:
        match merge:
            case str(line) if line.count(" ") == 1:
                lines.append(line)
            case [str(left), str(right)] if " " not in left + right:
                lines.append(f"{left} {right}")
            case _:
                raise Qwen35Error(
                    f"tokenizer.json: the merge {shown(merge)} is not of two tokens: {_ADVICE}"
                )
    return lines
