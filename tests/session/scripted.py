"""Scripted replies: the network reads them token by token as if it had generated them."""

import time
from collections.abc import Generator, Sequence
from itertools import chain, repeat

import mlx.core as mx
import pytest

from qwen35_mlx.model.cache import Cache
from qwen35_mlx.model.network import Network
from qwen35_mlx.session import turn
from qwen35_mlx.session.model import Model

# A token without text: padded vocabularies have many.
SILENT = 500


def reply_with(
    monkeypatch: pytest.MonkeyPatch, model: Model, text: str, *, ends: bool = True, drop: int = 0
) -> None:
    """Let all turns reply `text`, without its last `drop` tokens.

    Then they end, or go on with tokens that have no text until they are cancelled.
    """
    ids = model.tokenizer.encode_prompt(text)
    ids = ids[: len(ids) - drop]
    if ends:
        end = model.tokenizer.token_id("<|im_end|>")
        assert end in model.eos
        ids = [*ids, end]

    def decode(
        network: Network, cache: Cache, newest: Sequence[int], *_: object, **__: object
    ) -> Generator[int, None, None]:
        network(mx.array([newest]), cache)
        for token in chain(ids, [] if ends else repeat(SILENT)):
            network(mx.array([[token]]), cache)
            mx.eval(cache.arrays)
            yield token
            if not ends:
                time.sleep(0.01)  # leaves the test time to cancel

    monkeypatch.setattr(turn, "decode", decode)
