"""How many times a decoding step of one layer launches work on a GPU, read off MLX's graph."""

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels import attention_inputs, matvec, portable
from qwen35_mlx.kernels.experts import KERNEL
from qwen35_mlx.model.cache import DeltaState, KVCache
from qwen35_mlx.model.network import Network
from qwen35_mlx.model.weights import Weights
from scripts.shapes import RandomSource, peer_layer

# These name a part of an array, or lay it out otherwise, and launch nothing at one token, where
# every reshape is of contiguous rows.
VIEWS = frozenset(
    {
        *("AsStrided", "Broadcast", "BroadcastAxes", "Depends", "ExpandDims", "Flatten", "Reshape"),
        *("Slice", "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten", "View"),
    }
)


def launches(outputs: Sequence[mx.array]) -> Counter[str]:
    """The primitives before `outputs` that are not evaluated yet and launch work, with counts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.dot"
        mx.export_to_dot(str(file), *outputs)
        labels = re.findall(r'label ="([^"]*)"', file.read_text(encoding="utf-8"))
    return Counter(label for label in labels if label not in VIEWS)


def ours(source: RandomSource, kind: str) -> Counter[str]:
    """A layer's launches for one token, in the forms that a GPU starts from.

    Args:
        kind: "linear_attention" or "full_attention".
    """
    weights = Weights(source)
    if portable.backend():
        weights.choices.delta_step, weights.choices.experts_step = "one dispatch", KERNEL
        weights.choices.attention_step = attention_inputs.KERNEL
        weights.choices.matrix_step = matvec.KERNEL
        weights.choices.compiled = True
    network = Network(source.config, weights)
    index = source.config.layer_types.index(kind)
    layer, cache = network.layers[index], network.make_cache().layers[index]
    x = mx.zeros((1, 1, source.config.hidden_size), source.dtype)
    mx.eval(x, layer(x, cache), cache.arrays)  # the states and buffers are there now
    outputs = [layer(x, cache)]
    if isinstance(cache, DeltaState):
        assert cache.conv is not None
        assert cache.recurrent is not None
        outputs += [cache.conv, cache.recurrent]
    else:
        assert isinstance(cache, KVCache)
        outputs += cache.arrays
    return launches(outputs)


def mlx_lm(shape: str, index: int) -> Counter[str]:
    """The same of mlx-lm's layer."""
    from mlx_lm.models.cache import ArraysCache
    from mlx_lm.models.cache import KVCache as PeerCache

    layer, source = peer_layer(shape, index)
    linear = source.config.layer_types[index] == "linear_attention"
    cache: Any = ArraysCache(size=2) if linear else PeerCache()
    x = mx.zeros((1, 1, source.config.hidden_size), source.dtype)
    mx.eval(x, layer(x, None, cache), cache.state)
    y = layer(x, None, cache)
    return launches([y, *(cache.cache if linear else (cache.keys, cache.values))])
