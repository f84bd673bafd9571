"""How many tokens of a prompt to read at once, for `kernels.autotune` to try."""

import mlx.core as mx

from qwen35_mlx.kernels.autotune import Operation, Outputs
from qwen35_mlx.kernels.selection import PREFILL_CHUNK
from qwen35_mlx.model import trials
from qwen35_mlx.model.cache import DeltaState, KVCache
from qwen35_mlx.model.delta_net import GatedDeltaNet
from qwen35_mlx.model.device_memory import limit
from qwen35_mlx.model.layer import Layer
from qwen35_mlx.model.memory import estimate
from qwen35_mlx.model.network import Network

# Other numbers than `PREFILL_CHUNK`. Fewer tokens take less memory, more use the GPU better.
CANDIDATES = (1024, 4096)
# A chunk is the step of progress and cancelling too, so it changes only for a clear gain.
MARGIN = 0.03


def prefill_chunk(network: Network) -> Operation:
    """Timed on a prompt through the first layer of each kind."""
    first: dict[type, Layer] = {}
    for layer in network.layers:
        first.setdefault(type(layer.mixer), layer)
    tokens = trials.CHUNKED_TOKENS
    # Of different tokens, which choose different experts.
    prompt = trials.noise(network, 1, tokens, network.config.hidden_size)

    def read() -> Outputs:
        """The layers' outputs for the prompt."""
        chunk = network.selection.chunk_tokens
        outputs: list[mx.array] = []
        for layer in first.values():
            before: list[mx.array] = []
            cache = DeltaState() if isinstance(layer.mixer, GatedDeltaNet) else KVCache()
            for start in range(0, tokens, chunk):
                outputs.append(layer(prompt[:, start : start + chunk], cache))
                # As the network does: the next is launched while this one runs.
                mx.async_eval(outputs[-1], cache.arrays)
                mx.eval(before)
                before = [outputs[-1]]
        return outputs

    return Operation(
        "prefill_chunk",
        f"{len(network.layers)} layers of {network.config.hidden_size}, {_packing(network)}, "
        f"{network.dtype}",
        [str(chunk) for chunk in CANDIDATES if chunk < PREFILL_CHUNK or _fits(network, chunk)],
        [],
        [read],
        False,
        trials.tolerance(network),
        margin=MARGIN,
        composed=True,
    )


def _packing(network: Network) -> str:
    """The format of most bytes in the first layer, in words."""
    mixer = network.layers[0].mixer
    first = mixer.in_proj if isinstance(mixer, GatedDeltaNet) else mixer.qkv_proj
    largest = max(first.joined_matrices, key=lambda linear: sum(a.nbytes for a in linear.arrays))
    return largest.packing


def _fits(network: Network, chunk: int) -> bool:
    """Whether a prompt of one chunk fits beside what is in memory now."""
    need = estimate(network.config, network.dtype.size, chunk, chunk, None).total
    return mx.get_active_memory() + need <= limit()
