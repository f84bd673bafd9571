"""The gated delta rule, in plain MLX: token by token, and in chunks.

Per head, with a state S [dv, dk] that maps keys to values, one token does

    S <- exp(g) S;   d = beta (v - S k);   S <- S + d k^T;   y = S q

(Yang, Kautz, Hatamizadeh: "Gated Delta Networks", 2024). `recurrent` is that text and the
reference for everything faster; `chunked` is the same in matrix products over 64 tokens.
Both take q and k as they enter the rule: normalised, and q scaled by dk**-0.5. Everything is
float32 here: a bfloat16 decay of 0.999 would be 1.
"""

import mlx.core as mx

CHUNK = 64


def gated_delta(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """The rule over T tokens, by whichever form suits T.

    Shapes, all float32: q, k [B, T, nk, dk]; v [B, T, nv, dv]; g, beta [B, T, nv];
    state [B, nv, dv, dk]. Value head h reads key head h // (nv / nk). A token with g = 0 and
    beta = 0 leaves the state as it was.

    Returns:
        y [B, T, nv, dv] and the state after the last token.
    """
    form = recurrent if q.shape[1] < 8 else chunked
    return form(q, k, v, g, beta, state)


def recurrent(
    q: mx.array, k: mx.array, v: mx.array, g: mx.array, beta: mx.array, state: mx.array
) -> tuple[mx.array, mx.array]:
    """The rule as its definition says, one token after the other. Shapes: `gated_delta`."""
    group = v.shape[2] // k.shape[2]
    q, k = (mx.repeat(x, group, axis=2) for x in (q, k))
    decay = mx.exp(g)
    ys = []
    for t in range(q.shape[1]):
        state = state * decay[:, t, :, None, None]
        recalled = (state @ k[:, t, :, :, None]).squeeze(-1)
        delta = (v[:, t] - recalled) * beta[:, t, :, None]
        state = state + delta[..., None] * k[:, t, :, None, :]
        ys.append((state @ q[:, t, :, :, None]).squeeze(-1))
    return mx.stack(ys, axis=1), state


def chunked(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    g: mx.array,
    beta: mx.array,
    state: mx.array,
    chunk: int = CHUNK,
) -> tuple[mx.array, mx.array]:
    """The rule in matrix products. Shapes: `gated_delta`.

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
    # decay[t, i] = exp(g_(i+1) + ... + g_t), each sum of its own terms: differences of running
    # sums lose the small ones behind a strong decay. The upper triangle is masked before exp.
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

    s = state.reshape(batch, key_heads, group, dv, dk)
    ys = []
    for n in range(v.shape[0]):
        corrections = u[n] - w[n] @ s.swapaxes(-1, -2)
        ys.append(q[n] @ s.swapaxes(-1, -2) + within[n] @ corrections)
        s = carried[n] * s + corrections.swapaxes(-1, -2) @ k[n]
    y = mx.stack(ys).transpose(1, 0, 4, 2, 3, 5).reshape(batch, -1, value_heads, dv)
    return y[:, :tokens], s.reshape(state.shape)


def _unit_lower_inverse(strict: mx.array) -> mx.array:
    """(I + strict)^-1 for strictly lower triangular matrices [..., n, n], n a power of two.

    Doubles the inverted diagonal blocks: with A and B inverted, the block C below A and left of
    B becomes -B^-1 C A^-1. As stable as substitution, which the series of powers is not: equal
    keys make its terms grow like binomials.
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
