"""Which models there are, on this machine and to download, and whether they fit its memory."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from qwen35_chat.tokens import config_of

DEMO = "demo"
Fit = Literal["fits", "tight", "too large"]
# Of the machine's memory: beyond the first the rest of the system gets slow, and beyond the second
# a Mac refuses it to the GPU.
COMFORTABLE, AT_MOST = 0.6, 0.75
OVERHEAD = 500_000_000  # bytes for what is not weights or cache
_REPOSITORY = re.compile(r"models--([^/]+?)--(.+)")


@dataclass(frozen=True, slots=True)
class Known:
    """A model that can be run.

    Attributes:
        name: what `--model` takes.
        weights: bytes in memory.
        per_token: bytes of KV cache for one token.
        state: bytes of recurrent and convolution state, whatever the length.
        folder: where it is on this machine; None if it has to be downloaded.
        title: for people.
        context: tokens it can take; 0 if unknown.
    """

    name: str
    weights: int
    per_token: int
    state: int
    folder: Path | None = None
    title: str = ""
    context: int = 0

    def needs(self, tokens: int) -> int:
        """Bytes of memory with so many tokens of context."""
        tokens = min(tokens, self.context) if self.context else tokens
        return self.weights + self.per_token * tokens + self.state + OVERHEAD

    def fit(self, tokens: int, memory: int) -> Fit:
        share = self.needs(tokens) / max(memory, 1)
        return "fits" if share <= COMFORTABLE else "tight" if share <= AT_MOST else "too large"


# Name after "", size, GB of weights, bytes of KV a token, of recurrent and of
# convolution state. 4 bits a weight, group 64; sizes as computed from the published shapes.
_PUBLISHED: tuple[tuple[str, str, float, int, int, int], ...] = (
    ("0.8B-MLX-4bit", "0.8B", 0.42, 12_288, 18_874_368, 663_552),
    ("4B-MLX-4bit", "4B", 2.37, 32_768, 50_331_648, 1_179_648),
    ("9B-MLX-4bit", "9B", 5.04, 32_768, 50_331_648, 1_179_648),
    ("27B-4bit", "27B", 15.13, 65_536, 150_994_944, 2_949_120),
    ("35B-A3B-4bit", "35B-A3B", 19.51, 20_480, 62_914_560, 1_474_560),
    ("122B-A10B-4bit", "122B-A10B", 68.71, 24_576, 150_994_944, 2_654_208),
)  # fmt: skip
PUBLISHED = tuple(
    Known(
        f"mlx-community/Qwen3.5-{name}",
        round(gigabytes * 1e9),
        per_token,
        recurrent + conv,
        title=f"Qwen3.5 {size}",
        context=262_144,
    )
    for name, size, gigabytes, per_token, recurrent, conv in _PUBLISHED
)


def machine_memory() -> int:
    """Bytes of memory that this machine has; 0 if it does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def cache_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """The download cache of huggingface_hub."""
    if named := environment.get("HF_HUB_CACHE") or environment.get("HUGGINGFACE_HUB_CACHE"):
        return Path(named).expanduser()
    if home := environment.get("HF_HOME"):
        return Path(home).expanduser() / "hub"
    base = environment.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "huggingface" / "hub"


def folder_of(name: str) -> Path | None:
    """Where a model is on this machine, found without the network; None if it is not there."""
    if name == DEMO:
        import qwen35_mlx.demo

        return Path(next(iter(qwen35_mlx.demo.__path__)))
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if name.count("/") == 1:
        return _snapshot(cache_folder() / ("models--" + name.replace("/", "--")))
    return None


def local_models(folders: tuple[str, ...] = ()) -> list[Known]:
    """The Qwen3.5 checkpoints here: in the package, download cache, `folders`."""
    found: list[Known] = []
    demo = folder_of(DEMO)
    if demo is not None and (known := checkpoint(DEMO, demo)):
        found.append(known)
    for entry in _children(cache_folder()):
        match = _REPOSITORY.fullmatch(entry.name)
        snapshot = _snapshot(entry) if match else None
        if match and snapshot and (known := checkpoint("/".join(match.groups()), snapshot)):
            found.append(known)
    for folder in folders:
        path = Path(folder).expanduser()
        for entry in [path, *_children(path)]:
            if known := checkpoint(str(entry), entry):
                found.append(known)
    return found


def _children(folder: Path) -> Iterator[Path]:
    try:
        yield from sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return


def _snapshot(repository: Path) -> Path | None:
    """The newest complete snapshot of a repository in the cache."""
    snapshots = [entry for entry in _children(repository / "snapshots") if _complete(entry)]
    return max(snapshots, key=lambda path: path.stat().st_mtime, default=None)


def _complete(folder: Path) -> bool:
    """Whether the files that the index names are there; a broken download lacks some."""
    if not (folder / "config.json").exists():
        return False
    weights = list(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.exists():
        named = set(re.findall(r"[\w.-]+\.safetensors(?=\")", index.read_text(errors="replace")))
        return named <= {file.name for file in weights}
    return bool(weights)


def checkpoint(name: str, folder: Path) -> Known | None:
    """What a checkpoint in a folder needs; None if it is no Qwen3.5 checkpoint."""
    config = config_of(folder)
    text = config.get("text_config", config)
    if not str(config.get("model_type", "")).startswith("qwen3_5") or not _complete(folder):
        return None
    try:
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        layers = int(text["num_hidden_layers"])
        types = text.get("layer_types")
        every = int(text.get("full_attention_interval", 4))
        full = types.count("full_attention") if types else layers // every
        head = int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])
        itemsize = 4 if (text.get("dtype") or config.get("dtype")) == "float32" else 2
        per_token = full * 2 * int(text["num_key_value_heads"]) * head * itemsize
        keys = int(text["linear_num_key_heads"]) * int(text["linear_key_head_dim"])
        values = int(text["linear_num_value_heads"]) * int(text["linear_value_head_dim"])
        conv = (int(text.get("linear_conv_kernel_dim", 4)) - 1) * (2 * keys + values) * itemsize
        recurrent = values * int(text["linear_key_head_dim"]) * 4
        state = (layers - full) * (recurrent + conv)
        context = int(text.get("max_position_embeddings", 0))
    except (KeyError, TypeError, ValueError, OSError):
        return None
    return Known(name, weights, per_token, state, folder, context=context)
