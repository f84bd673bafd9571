"""Count the GPU launches of one layer for one token, from MLX's computation graph."""

import re
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from qwen35_mlx.kernels import gpu_kernel
from qwen35_mlx.model.attention import make_rope
from qwen35_mlx.model.cache import DeltaState
from qwen35_mlx.model.config import LayerType
from qwen35_mlx.model.kv_cache import KVCache
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.weights import Weights
from scripts.support.mlx_lm_peer import mlx_lm_layer
from scripts.support.random_weights import RandomSource, select_gpu_variants

# Primitives that only describe a view. Reshape is one of them because at one token every reshaped
# array has contiguous rows.
VIEWS = frozenset(
    {
        *("AsStrided", "Broadcast", "BroadcastAxes", "Depends", "ExpandDims", "Flatten", "Reshape"),
        *("Slice", "Split", "Squeeze", "StopGradient", "Transpose", "Unflatten", "View"),
    }
)


def count_launches(outputs: Sequence[mx.array]) -> Counter[str]:
    """Counts of the primitives that evaluating `outputs` will launch, by name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "graph.dot"
        mx.export_to_dot(str(file), *outputs)
        labels = re.findall(r'label ="([^"]*)"', file.read_text(encoding="utf-8"))
    return Counter(label for label in labels if label not in VIEWS)


def of_ours(source: RandomSource, kind: LayerType) -> Counter[str]:
    """Launches of the first layer of this kind, with the variants a GPU starts from."""
    weights = Weights(source.config, source)
    select_gpu_variants(weights.selection, source.packings)
    weights.selection.compiled = gpu_kernel.backend() is not None
    index = source.config.layer_types.index(kind)
    scope = weights.scope("model").scope("layers").scope(index)
    layer = Layer(kind, source.config, scope, make_rope(source.config))
    cache = DeltaState() if kind == "linear_attention" else KVCache()
    x = mx.zeros((1, 1, source.config.hidden_size), source.dtype)
    mx.eval(x, layer(x, cache), cache.arrays)  # allocates the states and buffers
    outputs = [layer(x, cache)]
    if isinstance(cache, DeltaState):
        assert cache.conv is not None
        assert cache.recurrent is not None
        outputs += [cache.conv, cache.recurrent]
    else:
        outputs += cache.arrays
    return count_launches(outputs)


def of_mlx_lm(shape: str, index: int) -> Counter[str]:
    """Launches of mlx-lm's layer `index`."""
    from mlx_lm.models.cache import ArraysCache
    from mlx_lm.models.cache import KVCache as PeerCache

    layer, source = mlx_lm_layer(shape, index)
    linear = source.config.layer_types[index] == "linear_attention"
    cache: Any = ArraysCache(size=2) if linear else PeerCache()
    x = mx.zeros((1, 1, source.config.hidden_size), source.dtype)
    mx.eval(x, layer(x, None, cache), cache.state)
    y = layer(x, None, cache)
    return count_launches([y, *(cache.cache if linear else (cache.keys, cache.values))])
