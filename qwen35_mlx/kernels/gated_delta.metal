// A Gated DeltaNet layer between its two projections: causal convolution, SiLU, l2 norm of q and
// k, gates and the delta rule; with NORMED also the gated norm.
//
// SPLIT threadgroups share the DV rows of one value head's state; tokens go by in tiles of TILE.
// A SIMD group keeps PASSES * 32 / LANES rows in registers, LANES lanes to a row, so that a dot
// product over a row takes few exchanges between lanes.
//
// projected  [B, L, 2 NK DK + 2 NV DV + 2 NV]   q | k | v | z | b | a of every token
// conv       [B, KERNEL - 1, 2 NK DK + NV DV]   inputs of the convolution before these tokens
// state      [B, NV, DV, DK] float32
// taps       [KERNEL, 2 NK DK + NV DV] float32
// decay_rate [NV], dt_bias [NV], norm [DV], eps [1]   float32
// lengths    [2] int32    L, and how many tokens to take; the others leave no trace, their y is 0
// padding    [B] int32    tokens at the start of each row that leave no trace
// -> y [B, L, NV DV], conv_out, state_out

constexpr int GROUP = NV / NK;
constexpr int CHANNELS = 2 * NK * DK + NV * DV;
constexpr int WIDTH = CHANNELS + NV * DV + 2 * NV;
constexpr int PAST = KERNEL - 1;
constexpr int HEIGHT = DV / SPLIT;        // rows of this threadgroup
constexpr int OWN = 2 * DK + HEIGHT;      // channels it reads: its head's q and k, its rows of v
constexpr int ABREAST = 32 / LANES;       // rows a SIMD group works on at once
constexpr int SIMDS = HEIGHT / (ABREAST * PASSES);
constexpr int THREADS = 32 * SIMDS;
constexpr int COLUMNS = DK / LANES;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int part = place % SPLIT;
const int head = place / SPLIT % NV;
const int batch = place / SPLIT / NV;
const int key_head = head / GROUP;
const int length = static_cast<int>(lengths[0]);
const int tokens = static_cast<int>(lengths[1]);
const int padded = static_cast<int>(padding[batch]);

threadgroup float mixed[TILE * OWN];      // per token q | k | v, convolved
threadgroup float values[TILE * HEIGHT];  // per token what the rule gives
threadgroup float decay[TILE];
threadgroup float beta[TILE];
threadgroup float key_query[TILE];        // k . q

// This lane's columns: runs of four, so that neighbours read neighbouring words.
const int column = lane % LANES * 4;
const int row = part * HEIGHT + simd * ABREAST * PASSES + lane / LANES;
float rows[PASSES * COLUMNS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    rows[p * COLUMNS + c] = static_cast<float>(
        state[((batch * NV + head) * DV + row + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4]);

for (int start = 0; start < tokens; start += TILE) {
  threadgroup_barrier(mem_flags::mem_threadgroup);
  const int taken = tokens - start < TILE ? tokens - start : TILE;

  for (int i = thread_index; i < OWN; i += THREADS) {
    const int channel = i < DK ? key_head * DK + i
        : i < 2 * DK          ? NK * DK + key_head * DK + i - DK
                              : 2 * NK * DK + head * DV + part * HEIGHT + i - 2 * DK;
    float window[KERNEL];
    #pragma unroll
    for (int j = 0; j < PAST; ++j) {
      const int at = start + j - PAST;
      window[j + 1] = at >= 0
          ? (at < padded ? 0.0f : static_cast<float>(projected[(batch * length + at) * WIDTH + channel]))
          : static_cast<float>(conv[(batch * PAST + at + PAST) * CHANNELS + channel]);
    }
    for (int t = 0; t < TILE; ++t) {
      float sum = 0.0f;
      #pragma unroll
      for (int j = 0; j < PAST; ++j) {
        window[j] = window[j + 1];
        sum += window[j] * static_cast<float>(taps[j * CHANNELS + channel]);
      }
      const int at = start + t;
      window[PAST] = t >= taken || at < padded
          ? 0.0f
          : static_cast<float>(projected[(batch * length + at) * WIDTH + channel]);
      sum += window[PAST] * static_cast<float>(taps[PAST * CHANNELS + channel]);
      mixed[t * OWN + i] = sum / (1.0f + precise::exp(-sum));
    }
  }
  for (int t = thread_index; t < taken; t += THREADS) {
    const int gates = (batch * length + start + t) * WIDTH + CHANNELS + NV * DV + head;
    const float b = static_cast<float>(projected[gates]);
    const float x = static_cast<float>(projected[gates + NV]) + static_cast<float>(dt_bias[head]);
    // log(1 + e) to the last digit also where e is small: what 1 + e loses, the quotient restores.
    const float e = precise::exp(x < 0.0f ? x : -x);
    const float u = 1.0f + e;
    const float log1p_e = u == 1.0f ? e : precise::log(u) * e / (u - 1.0f);
    const float softplus = (x > 0.0f ? x : 0.0f) + log1p_e;
    decay[t] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
    beta[t] = 1.0f / (1.0f + precise::exp(-b));
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // l2 norm of q and k, one SIMD group to a token; q is scaled by DK ** -0.5.
  for (int t = simd; t < taken; t += SIMDS) {
    float qq = 0.0f;
    float kk = 0.0f;
    float kq = 0.0f;
    for (int c = lane; c < DK; c += 32) {
      const float q = mixed[t * OWN + c];
      const float k = mixed[t * OWN + DK + c];
      qq += q * q;
      kk += k * k;
      kq += k * q;
    }
    const float to_q = precise::rsqrt(simd_sum(qq) + 1e-6f) * precise::rsqrt(static_cast<float>(DK));
    const float to_k = precise::rsqrt(simd_sum(kk) + 1e-6f);
    kq = simd_sum(kq);
    for (int c = lane; c < DK; c += 32) {
      mixed[t * OWN + c] *= to_q;
      mixed[t * OWN + DK + c] *= to_k;
    }
    if (lane == 0) key_query[t] = kq * to_q * to_k;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // The rule. S q after the update is decay (S q) + delta (k . q), so that both dot products are
  // with the state as it was, and one round of exchanges serves both.
  for (int t = 0; t < taken; ++t) {
    #pragma unroll
    for (int p = 0; p < PASSES; ++p) {
      float recalled = 0.0f;
      float out = 0.0f;
      #pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const int at = t * OWN + c / 4 * LANES * 4 + column + c % 4;
        recalled += rows[p * COLUMNS + c] * mixed[at + DK];
        out += rows[p * COLUMNS + c] * mixed[at];
      }
      #pragma unroll
      for (int step = 1; step < LANES; step *= 2) {
        recalled += simd_shuffle_xor(recalled, static_cast<ushort>(step));
        out += simd_shuffle_xor(out, static_cast<ushort>(step));
      }
      const int own = row - part * HEIGHT + p * ABREAST;
      const float delta = (mixed[t * OWN + 2 * DK + own] - decay[t] * recalled) * beta[t];
      #pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        const int at = t * OWN + DK + c / 4 * LANES * 4 + column + c % 4;
        rows[p * COLUMNS + c] = decay[t] * rows[p * COLUMNS + c] + delta * mixed[at];
      }
      if (lane % LANES == 0) values[t * HEIGHT + own] = decay[t] * out + delta * key_query[t];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  if (NORMED) {
    // RMS norm over the head, times silu(z), one SIMD group to a token.
    for (int t = simd; t < taken; t += SIMDS) {
      const int token = batch * length + start + t;
      float squares = 0.0f;
      for (int i = lane; i < DV; i += 32) squares += values[t * HEIGHT + i] * values[t * HEIGHT + i];
      const float mean = simd_sum(squares) / static_cast<float>(DV);
      const float scale = precise::rsqrt(mean + static_cast<float>(eps[0]));
      for (int i = lane; i < DV; i += 32) {
        const float z = static_cast<float>(projected[token * WIDTH + CHANNELS + head * DV + i]);
        const float gated = z / (1.0f + precise::exp(-z)) * static_cast<float>(norm[i]);
        y[token * NV * DV + head * DV + i] =
            static_cast<OutT>(values[t * HEIGHT + i] * scale * gated);
      }
    }
  } else {
    for (int i = thread_index; i < taken * HEIGHT; i += THREADS) {
      const int token = batch * length + start + i / HEIGHT;
      y[token * NV * DV + head * DV + part * HEIGHT + i % HEIGHT] = static_cast<OutT>(values[i]);
    }
  }
}

for (int i = thread_index; i < (length - tokens) * HEIGHT; i += THREADS) {
  const int token = batch * length + tokens + i / HEIGHT;
  y[token * NV * DV + head * DV + part * HEIGHT + i % HEIGHT] = static_cast<OutT>(0.0f);
}
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    state_out[((batch * NV + head) * DV + row + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4] =
        rows[p * COLUMNS + c];
// Each channel's last inputs are passed on by one threadgroup.
for (int i = thread_index; i < OWN; i += THREADS) {
  const int channel = i < DK ? key_head * DK + i
      : i < 2 * DK          ? NK * DK + key_head * DK + i - DK
                            : 2 * NK * DK + head * DV + part * HEIGHT + i - 2 * DK;
  if (i >= 2 * DK || (head % GROUP == 0 && part == 0)) {
    #pragma unroll
    for (int j = 0; j < PAST; ++j) {
      const int at = tokens + j - PAST;
      const float x = at < 0 ? static_cast<float>(conv[(batch * PAST + at + PAST) * CHANNELS + channel])
          : at < padded      ? 0.0f
                             : static_cast<float>(projected[(batch * length + at) * WIDTH + channel]);
      conv_out[(batch * PAST + j) * CHANNELS + channel] = static_cast<InT>(x);
    }
  }
}
