"""How many times a decoding step of one layer launches work on a GPU, read off MLX's graph."""

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.cache import DeltaState, KVCache
from qwen35_mlx.model.config import LayerType
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.weights import Weights
from scripts.shapes import RandomSource, peer_layer, take_kernels

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


def ours(source: RandomSource, kind: LayerType) -> Counter[str]:
    """A layer's launches for one token, in the forms that a GPU starts from."""
    weights = Weights(source.config, source)
    take_kernels(weights.selection)
    weights.selection.compiled = gpu_kernel.backend() is not None
    index = source.config.layer_types.index(kind)
    scope = weights.scope("model").scope("layers").scope(index)
    layer = Layer(kind, source.config, scope, make_rope(source.config))
    cache = DeltaState() if kind == "linear_attention" else KVCache()
    x = mx.zeros((1, 1, source.config.hidden_size), source.dtype)
    mx.eval(x, layer(x, cache), cache.arrays)  # the states and buffers are there now
    outputs = [layer(x, cache)]
    if isinstance(cache, DeltaState):
        assert cache.conv is not None
        assert cache.recurrent is not None
        outputs += [cache.conv, cache.recurrent]
    else:
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
