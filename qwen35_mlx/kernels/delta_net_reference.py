"""The definition of a Gated DeltaNet layer between its two projections, in plain MLX.

Causal convolution, l2 norms, gates, the gated delta rule, gated norm. Per head, with a state
S [dv, dk] that maps keys to values, the rule does for each token

    S <- exp(g) S;   d = beta (v - S k);   S <- S + d k^T;   y = S q

(Yang, Kautz, Hatamizadeh: "Gated Delta Networks", 2024). `recurrent` is that text and the
reference of everything faster; `chunked` computes 64 tokens at a time in matrix products. Both take
q and k as they enter the rule: normalised, and q scaled by dk**-0.5. All is float32: in bfloat16 a
decay of 0.999 would be 1. The kernels that compute the same are in `delta_net`.
"""

from dataclasses import dataclass

import mlx.core as mx

L2_EPS = 1e-6
# Tokens that `chunked` computes at a time: a GPU is faster with few large products, a CPU with few
# multiplications.
CHUNK, CPU_CHUNK = 64, 8
# From this many tokens on, `gated_delta_rule` is `chunked`.
MIN_CHUNKED_TOKENS = 8


@dataclass(frozen=True, slots=True)
class DeltaNetParameters:
    """Sizes and small weights of a layer.

    Attributes:
        taps: [kernel, channels] float32, of the causal convolution over q, k and v.
        decay_rate: [nv] float32, exp(A_log).
        dt_bias: [nv] float32.
        norm: [dv] float32, of the gated norm.
        eps: of the gated norm.
    """

    key_heads: int
    value_heads: int
    key_head_dim: int
    value_head_dim: int
    taps: mx.array
    decay_rate: mx.array
    dt_bias: mx.array
    norm: mx.array
    eps: float

    @property
    def kernel(self) -> int:
        """Size of the convolution's kernel, in tokens."""
        return self.taps.shape[0]

    @property
    def channels(self) -> int:
        """Channels of the convolution: q, k and v side by side."""
        return self.taps.shape[1]

    @property
    def key_dim(self) -> int:
        return self.key_heads * self.key_head_dim

    @property
    def value_dim(self) -> int:
        return self.value_heads * self.value_head_dim

    def empty(self, batch: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """The conv and state of `reference` before the first token."""
        heads = (self.value_heads, self.value_head_dim, self.key_head_dim)
        return (
            mx.zeros((batch, self.kernel - 1, self.channels), dtype),
            mx.zeros((batch, *heads), mx.float32),
        )


def reference(
    projected: mx.array,
    conv: mx.array,
    state: mx.array,
    layer: DeltaNetParameters,
) -> tuple[mx.array, mx.array, mx.array]:
    """A layer between its projections, in float32 except for `projected`, conv and y.

    Args:
        projected: [B, T, channels + value_dim + 2 nv], q | k | v | z | b | a of each token.
        conv: [B, kernel - 1, channels], the convolution's inputs before these tokens.
        state: [B, nv, dv, dk] float32, the rule's state before these tokens.

    Returns:
        y [B, T, value_dim] in projected's dtype, and the new conv and state.
    """
    batch, tokens, _ = projected.shape
    gates = layer.channels + layer.value_dim
    bounds = [layer.channels, gates, gates + layer.value_heads]
    qkv, z, b, a = mx.split(projected, bounds, axis=-1)
    window = mx.concatenate([conv, qkv], axis=1)
    # A copy: a view would keep the projections of the whole prompt in memory.
    conv = mx.contiguous(window[:, tokens:])
    window = window.astype(mx.float32)
    mixed = window[:, :tokens] * layer.taps[0]
    for i in range(1, layer.kernel):
        mixed = mixed + window[:, i : i + tokens] * layer.taps[i]
    mixed = mixed * mx.sigmoid(mixed)
    q, k, v = mx.split(mixed, [layer.key_dim, 2 * layer.key_dim], axis=-1)
    keys = (batch, tokens, layer.key_heads, layer.key_head_dim)
    values = (batch, tokens, layer.value_heads, layer.value_head_dim)
    q = l2_norm(q.reshape(keys)) * layer.key_head_dim**-0.5
    k = l2_norm(k.reshape(keys))
    beta = mx.sigmoid(b.astype(mx.float32))
    g = -layer.decay_rate * mx.logaddexp(a.astype(mx.float32) + layer.dt_bias, 0.0)
    y, state = gated_delta_rule(q, k, v.reshape(values), g, beta, state)
    z = z.reshape(values).astype(mx.float32)
    y = mx.fast.rms_norm(y, layer.norm, layer.eps) * z * mx.sigmoid(z)
    return y.reshape(batch, tokens, -1).astype(projected.dtype), conv, state


def l2_norm(x: mx.array) -> mx.array:
    """x [..., d] / |x|; the epsilon is added to the sum of squares, not to their mean."""
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + L2_EPS)


def gated_delta_rule(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """The gated delta rule over T tokens, by whichever of the two functions is faster for T.

    Shapes, all float32: q, k [B, T, nk, dk]; v [B, T, nv, dv]; g, beta [B, T, nv];
    state [B, nv, dv, dk]. Value head h reads key head h // (nv / nk). A token with g = 0 and
    beta = 0 leaves the state as it was.

    Returns:
        y [B, T, nv, dv] and the state after the last token.
    """
    if q.shape[1] < MIN_CHUNKED_TOKENS:
        return recurrent(q, k, v, g, beta, state)
    chunk = CPU_CHUNK if mx.default_device() == mx.cpu else CHUNK
    return chunked(q, k, v, g, beta, state, chunk)


def recurrent(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """The rule by its definition, one token after the other. Shapes: `gated_delta_rule`."""
    group = v.shape[2] // k.shape[2]
    q, k = (mx.repeat(x, group, axis=2) for x in (q, k))
    decay = mx.exp(g)
    ys = []
    for t in range(q.shape[1]):
        state = state * decay[:, t, :, None, None]
        delta = (v[:, t] - _recall(state, k[:, t])) * beta[:, t, :, None]
        state = state + delta[..., None] * k[:, t, :, None, :]
        ys.append(_recall(state, q[:, t]))
    return mx.stack(ys, axis=1), state


def _recall(state: mx.array, keys: mx.array) -> mx.array:
    """S k of each head: [B, nv, dv, dk], [B, nv, dk] -> [B, nv, dv].

    As a row times S^T, which on a CPU takes a fifth of the time of S times a column.
    """
    return (keys[..., None, :] @ state.swapaxes(-1, -2)).squeeze(-2)


def chunked(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
    chunk: int = CHUNK,
) -> tuple[mx.array, mx.array]:
    """The rule in matrix products. Shapes: `gated_delta_rule`.

    Within a chunk that starts from S0, with G the running sum of g, the corrections D of all
    its tokens solve a unit lower triangular system:

        (I + L) D = beta (V - exp(G) K S0^T),   L[t, i] = beta_t exp(G_t - G_i) k_t . k_i, i < t

    so D = U - W S0^T with U and W known before S0 is: only the sum over chunks is sequential.
    """
    batch, tokens, key_heads, dk = k.shape
    value_heads, dv = v.shape[2:]
    group = value_heads // key_heads

    def chunks(x: mx.array, heads: int, per_key: int) -> mx.array:
        """[B, T, heads * per_key, ...] -> [chunks, B, heads, per_key, chunk, ...], zero-padded."""
        x = mx.pad(x, [(0, 0), (0, -tokens % chunk), *[(0, 0)] * (x.ndim - 2)])
        x = x.reshape(batch, -1, chunk, heads, per_key, *x.shape[3:])
        return x.transpose(1, 0, 3, 4, 2, *range(5, x.ndim))

    q, k = (chunks(x, key_heads, 1) for x in (q, k))
    v, g, beta = (chunks(x, key_heads, group) for x in (v, g, beta))
    # decay[t, i] = exp(g_(i+1) + ... + g_t), each summed by itself: a difference of running sums
    # would lose small terms after a strong decay. The upper triangle is masked before exp.
    lower = mx.tril(mx.ones((chunk, chunk), dtype=mx.bool_))
    between = mx.where(mx.tril(lower, -1), g[..., :, None], 0.0)
    decay = mx.exp(mx.where(lower, mx.cumsum(between, axis=-2), -mx.inf))
    from_start = mx.exp(mx.cumsum(g, axis=-1))
    similarity = k @ k.swapaxes(-1, -2)
    inverse = _unit_lower_inverse(mx.tril(beta[..., None] * decay * similarity, -1))
    weighted = inverse * beta[..., None, :]
    u = weighted @ v
    w = (weighted * from_start[..., None, :]) @ k
    within = decay * (q @ k.swapaxes(-1, -2))
    q = q * from_start[..., None]
    k = k * decay[..., -1, :, None]
    carried = from_start[..., -1, None, None]

    # Transposed: a CPU reads the right-hand matrix of a product faster by its rows.
    s = mx.contiguous(state.swapaxes(-1, -2)).reshape(batch, key_heads, group, dk, dv)
    ys = []
    for n in range(v.shape[0]):
        corrections = u[n] - w[n] @ s
        ys.append(q[n] @ s + within[n] @ corrections)
        s = carried[n] * s + k[n].swapaxes(-1, -2) @ corrections
    y = mx.stack(ys).transpose(1, 0, 4, 2, 3, 5).reshape(batch, -1, value_heads, dv)
    return y[:, :tokens], mx.contiguous(s.swapaxes(-1, -2)).reshape(state.shape)


def _unit_lower_inverse(strict: mx.array) -> mx.array:
    """(I + strict)^-1 for strictly lower triangular matrices [..., n, n], n a power of two.

    Doubles the inverted diagonal blocks: with A and B inverted, the block C below A and left of
    B becomes -B^-1 C A^-1. This is as stable as substitution. The series of powers is not: with
    equal keys its terms grow like binomials.
    """
    n = strict.shape[-1]
    rows, columns = mx.arange(n)[:, None], mx.arange(n)[None, :]
    inverse = mx.broadcast_to(mx.eye(n), strict.shape)
    size = 1
    while size < n:
        below = (rows // size) % 2 == 1
        joins = below & (columns // size == rows // size - 1)
        corner = mx.where(joins, strict, 0.0)
        inverse = inverse - (corner if size == 1 else inverse @ corner @ inverse)
        size *= 2
    return inverse
