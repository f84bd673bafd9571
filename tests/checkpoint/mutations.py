"""Random damage to one file of a checkpoint, the same for the same seed."""

import copy
import json
import os
import random
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Stand for JSON text that `json.dumps` does not write.
_RAW = {
    "<inf>": "Infinity",
    "<nan>": "NaN",
    "<1e999>": "1e999",
    "<digits>": "9" * 5000,
    "<deep>": "[" * 100_000,
    "<closed>": "[" * 900 + "]" * 900,
    "<half>": '"\\ud800"',
    "<many>": "[" + "[]," * 100_000 + "[]]",
}
_ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 5, 7, 64, 1000, 4096, 10**6, 10**7),
    *(2**31 - 1, 2**31, 2**53, 2**60, 2**63 - 1, 2**63, 10**30, -(10**30)),
    *(0.5, -0.5, 0.25, 0.1, 1.5, 4.0, 1e-320, 1e-9, 1e9, 1e308),
    *("", "x", "64", "true", "../x.safetensors", "/dev/zero", "a\0b", "é" * 300, "n\nn\x1b[31m"),
    *([], [[]], [0], [1, 2], [0, 0], [-1], ["x"], [2**62] * 40, {}, {"a": 1}, {"type": "yarn"}),
    *_RAW,
)

# Fields that config.json may have and the small checkpoints lack.
_MORE_FIELDS = (
    *("quantization", "quantization_config", "full_attention_interval", "rope_scaling"),
    *("eos_token_id", "rope_theta", "partial_rotary_factor", "tie_word_embeddings"),
    *("text_config", "layer_types", "rope_parameters", "model_type", "num_experts", "truncate"),
    *("factor", "beta_fast", "mscale", "attention_factor", "mode", "dtype"),
    *("original_max_position_embeddings", "per_layer_config", "type"),
    *("quant_method", "checkpoint_format", "packing_format", "weight_block_size", "bits", "sym"),
    *("format", "quant_algo", "zero_point", "version", "num_bits", "block_structure", "dynamic"),
)


def mutate(folder: Path, rng: random.Random) -> str:
    """Damage one file of a folder; returns which and how."""
    files = sorted(folder.iterdir())
    weights = [5 if file.name == "config.json" else 1 for file in files]
    file = rng.choices(files, weights)[0]
    kinds: list[Callable[[Path, random.Random], str]] = [_bytes_changed, _cut]
    if rng.random() < 0.15:
        kinds = [_replaced]
    elif file.suffix == ".json" and rng.random() < 0.9:
        kinds = [_json_changed]
    elif file.suffix == ".safetensors" and rng.random() < 0.8:
        kinds = [_header_changed, _header_changed, _values_changed]
    return f"{file.name}: {rng.choice(kinds)(file, rng)}"


def _own_copy(file: Path) -> bytearray:
    """The content of a file that is a link to the undamaged one; the link is removed."""
    content = bytearray(file.read_bytes())
    file.unlink()
    return content


def _bytes_changed(file: Path, rng: random.Random) -> str:
    content = _own_copy(file)
    # Mostly near the start, where a safetensors file has its header.
    end = min(len(content), rng.choice((16, 4096, 1 << 30)))
    places = [rng.randrange(end) for _ in range(rng.choice((1, 1, 3, 30)))] if end else []
    for place in places:
        content[place] = rng.randrange(256)
    file.write_bytes(content)
    return f"bytes changed at {places}"


def _cut(file: Path, rng: random.Random) -> str:
    content = _own_copy(file)
    end = rng.choice((0, 1, 8, 9, rng.randrange(len(content) + 1), max(len(content) - 1, 0)))
    file.write_bytes(content[:end] + b"\0" * rng.choice((0, 0, 100)))
    return f"cut at {end}"


def _replaced(file: Path, rng: random.Random) -> str:
    file.unlink()
    kind = rng.choice(("nothing", "folder", "pipe", "socket", "loop", "dangling", "device", "huge"))
    match kind:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "socket":
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(os.path.relpath(file))  # absolute, it may be too long
        case "loop":
            file.symlink_to(file)
        case "dangling":
            file.symlink_to("nowhere")
        case "device":
            file.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/tty")))
        case "huge":
            with file.open("wb") as made:
                made.truncate(1 << 40)
    return f"replaced by {kind}"


def _json_changed(file: Path, rng: random.Random) -> str:
    document = json.loads(_own_copy(file))
    what = _change(document, rng)
    file.write_text(_dumps(document))
    return what


def _header_changed(file: Path, rng: random.Random) -> str:
    content = _own_copy(file)
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    what = _change(header, rng)
    text = _dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    return f"header {what}"


def _values_changed(file: Path, rng: random.Random) -> str:
    """Other values in one of the small tensors, on which the meaning of others may depend."""
    content = _own_copy(file)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    spans = {name: t["data_offsets"] for name, t in header.items() if name != "__metadata__"}
    small = [name for name, (begin, end) in spans.items() if 0 < end - begin <= 1024]
    name = rng.choice(small or list(spans))
    begin, end = spans[name]
    size = rng.choice([width for width in (1, 2, 4, 8) if (end - begin) % width == 0])
    value = rng.choice((b"\0" * 8, b"\xff" * 8, b"\x7f" * 8, rng.randbytes(8)))[:size]
    count = (end - begin) // size
    places = range(count) if rng.random() < 0.3 else [rng.randrange(count)]
    for place in places:
        at = start + begin + place * size
        content[at : at + size] = value
    file.write_bytes(content)
    return f"{len(places)} values of {name[-60:]} -> {value.hex()}"


def _dumps(document: Any) -> str:
    text = json.dumps(document)
    for mark, raw in _RAW.items():
        text = text.replace(f'"{mark}"', raw)
    return text


def _change(document: Any, rng: random.Random) -> str:
    """Change one value in a document, at a random depth."""
    places = list(_places(document))
    parent, key = rng.choice(places)
    name, old = str(key)[:60], repr(parent[key])[:60]
    odd = copy.deepcopy(rng.choice(_ODD))
    shown = repr(odd)[:60]
    match rng.randrange(10):
        case 0:
            del parent[key]
            return f"without {name}"
        case 1 if isinstance(parent, dict):
            parent[rng.choice(_MORE_FIELDS)] = odd
            return f"with a field more, {shown}"
        case 2 if isinstance(parent, dict):
            parent[str(odd)] = parent.pop(key)
            return f"{name} renamed {shown}"
        case 3:
            other, other_key = rng.choice(places)
            parent[key] = copy.deepcopy(other[other_key])
            return f"{name} {old} -> a value of {str(other_key)[:60]}"
        case 4 if isinstance(parent[key], int | float):
            parent[key] = parent[key] * rng.choice((2, 3, -1, 0.5, 1e3, 1e6))
            return f"{name} {old} -> {parent[key]}"
    parent[key] = odd
    return f"{name} {old} -> {shown}"


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    keys = document if isinstance(document, dict) else range(len(document))
    for key in keys:
        yield document, key
        if isinstance(document[key], dict | list):
            yield from _places(document[key])
