"""The gated delta rule in PyTorch: a chunked version for training, one step for decoding.

Per head, with state S [Dk, Dv]:  S *= exp(g);  S += k (x) beta * (v - S^T k);  o = S^T q.
The chunked version solves the dependencies within a chunk as one unit triangular system, so that
only the state is carried from chunk to chunk.
"""

import torch
import torch.nn.functional as F

CHUNK = 64


def l2norm(x: torch.Tensor) -> torch.Tensor:
    """Unit length over the last axis; epsilon on the sum of squares."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def chunked(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """All time steps at once, in float32.

    q, k [B, T, Hk, Dk], already normalised (and q scaled); v [B, T, Hv, Dv];
    g (log decay), beta [B, T, Hv]; state [B, Hv, Dk, Dv] or None for zeros.
    Value head h belongs to key head h // (Hv / Hk).
    Returns o [B, T, Hv, Dv] and the state after the last step.
    """
    length = q.shape[1]
    heads, value_heads = q.shape[2], v.shape[2]
    repeat = value_heads // heads
    pad = -length % CHUNK
    if pad:  # beta = 0 and g = 0 leave the state unchanged
        q, k, v = (F.pad(x, (0, 0, 0, 0, 0, pad)) for x in (q, k, v))
        g, beta = (F.pad(x, (0, 0, 0, pad)) for x in (g, beta))

    def split(x: torch.Tensor) -> torch.Tensor:
        """[B, T, H, ...] -> [B, H, N, C, ...]"""
        return x.unflatten(1, (-1, CHUNK)).movedim(3, 1)

    q, k, v, g, beta = (split(x.float()) for x in (q, k, v, g, beta))
    g = g.cumsum(-1)
    lower = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=q.device).tril()
    decay = (g[..., :, None] - g[..., None, :]).masked_fill(~lower, -torch.inf).exp()

    def spread(x: torch.Tensor) -> torch.Tensor:
        return x.repeat_interleave(repeat, dim=1) if repeat > 1 else x

    kk = spread(k @ k.mT) * decay * beta[..., None]
    identity = torch.eye(CHUNK, device=q.device)
    inverse = torch.linalg.solve_triangular(
        kk.tril(-1) + identity, identity.expand_as(kk), upper=False, unitriangular=True
    )
    attend = spread(q @ k.mT) * decay
    q, k = spread(q), spread(k)
    u = inverse @ (v * beta[..., None])
    w = inverse @ (k * (beta * g.exp())[..., None])
    q = q * g.exp()[..., None]
    last = g[..., -1:]
    k = k * (last - g).exp()[..., None]
    last = last.exp()[..., None]

    if state is None:
        state = q.new_zeros(q.shape[0], value_heads, q.shape[-1], v.shape[-1])
    outs = []
    # Not by index, whose gradient fills a tensor of all chunks for each of them.
    chunks = (x.unbind(2) for x in (q, k, u, w, attend, last))
    for qn, kn, un, wn, attend_n, last_n in zip(*chunks, strict=True):
        new = un - wn @ state
        outs.append(qn @ state + attend_n @ new)
        state = state * last_n + kn.mT @ new
    out = torch.cat(outs, 2).transpose(1, 2)
    return out[:, :length], state


def step(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    g: torch.Tensor,
    beta: torch.Tensor,
    state: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One time step: shapes as in `chunked` with T = 1."""
    repeat = v.shape[2] // q.shape[2]
    q, k = (x[:, 0].float().repeat_interleave(repeat, dim=1) for x in (q, k))
    state = state * g[:, 0].float().exp()[..., None, None]
    seen = (state * k[..., None]).sum(-2)
    change = (v[:, 0].float() - seen) * beta[:, 0].float()[..., None]
    state = state + k[..., None] * change[..., None, :]
    return (state * q[..., None]).sum(-2)[:, None], state
