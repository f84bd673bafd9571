"""Fake checkpoints and downloads, for the tests of models."""

import json
from pathlib import Path
from typing import Any

from qwen35_chat.screens.models import ModelList

from tests.app.drive import Driver

# The shape of the 4B model: 8 of its 32 layers have a KV cache.
CONFIG: dict[str, Any] = {
    "model_type": "qwen3_5",
    "vocab_size": 248_320,
    "dtype": "bfloat16",
    "num_hidden_layers": 32,
    "full_attention_interval": 4,
    "hidden_size": 2560,
    "intermediate_size": 9216,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "linear_num_key_heads": 16,
    "linear_key_head_dim": 128,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4,
    "max_position_embeddings": 262_144,
}


def make(folder: Path, config: dict[str, Any] = CONFIG, weights: int = 1000) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(bytes(weights))
    return folder


def in_cache(tmp_path: Path, name: str, commit: str = "abc") -> Path:
    return tmp_path / "hub" / ("models--" + name.replace("/", "--")) / "snapshots" / commit


class StartedDownload:
    """A download whose progress the test sets."""

    last: "StartedDownload"

    def __init__(self, name: str):
        StartedDownload.last = self
        self.name = name
        self.done = self.total = 0
        self.folder = self.error = ""
        self.running, self.cancelled = True, False
        self.seconds_left: float | None = None

    @property
    def fraction(self) -> float:
        return self.done / self.total if self.total else 0.0

    def cancel(self) -> None:
        self.cancelled, self.running = True, False

    close = cancel


def opened(at: Driver, memory: int = 16 * 2**30, start: Any = None) -> ModelList:
    models = ModelList(at.controller, memory=memory, start=start or StartedDownload)
    at.app.push_screen(models, lambda name: name and at.app.chat.models.choose(name))
    return models
