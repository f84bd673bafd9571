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
constexpr int ROUNDS = (OWN + THREADS - 1) / THREADS;

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
auto own = projected + static_cast<size_t>(batch) * length * WIDTH;

// Per token q | k | v, convolved; lanes read runs of four.
alignas(16) threadgroup float mixed[TILE * OWN];
threadgroup float values[TILE * HEIGHT];  // per token what the rule gives
threadgroup float decay[TILE];
threadgroup float beta[TILE];
threadgroup float to_query[TILE];         // what makes q and k unit vectors, and scales q
threadgroup float to_key[TILE];
threadgroup float key_query[TILE];        // k . q

// This lane's columns of its rows: runs of four, so that neighbours read neighbouring words.
const int column = lane % LANES * 4;
const int row = part * HEIGHT + simd * ABREAST * PASSES + lane / LANES;
float rows[PASSES * COLUMNS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    rows[p * COLUMNS + c] = static_cast<float>(
        state[((batch * NV + head) * DV + row + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4]);

// This thread's channels, one to a round: taps, and the inputs of a tile after the last ones of the
// tile before. Inputs are asked for a tile ahead, so that nobody waits for memory.
int channel[ROUNDS];
float tap[ROUNDS * KERNEL];
float input[ROUNDS * (PAST + TILE)];
#pragma unroll
for (int r = 0; r < ROUNDS; ++r) {
  const int i = thread_index + r * THREADS;
  channel[r] = i < DK ? key_head * DK + i
      : i < 2 * DK    ? NK * DK + key_head * DK + i - DK
      : i < OWN       ? 2 * NK * DK + head * DV + part * HEIGHT + i - 2 * DK
                      : 0;
  #pragma unroll
  for (int j = 0; j < KERNEL; ++j)
    tap[r * KERNEL + j] = static_cast<float>(taps[j * CHANNELS + channel[r]]);
  #pragma unroll
  for (int j = 0; j < PAST; ++j)
    input[r * (PAST + TILE) + j] = static_cast<float>(conv[(batch * PAST + j) * CHANNELS + channel[r]]);
  #pragma unroll
  for (int t = 0; t < TILE; ++t)
    input[r * (PAST + TILE) + PAST + t] =
        t < tokens && t >= padded ? static_cast<float>(own[t * WIDTH + channel[r]]) : 0.0f;
}
// The first threads have one token's gates each.
constexpr int GATES = CHANNELS + NV * DV;
float to_beta = 0.0f;
float to_decay = 0.0f;
if (thread_index < TILE && thread_index < tokens) {
  to_beta = static_cast<float>(own[thread_index * WIDTH + GATES + head]);
  to_decay = static_cast<float>(own[thread_index * WIDTH + GATES + NV + head]);
}

for (int start = 0; start < tokens; start += TILE) {
  const int taken = tokens - start < TILE ? tokens - start : TILE;

  #pragma unroll
  for (int r = 0; r < ROUNDS; ++r) {
    const int i = thread_index + r * THREADS;
    #pragma unroll
    for (int t = 0; t < TILE; ++t) {
      float sum = 0.0f;
      #pragma unroll
      for (int j = 0; j < KERNEL; ++j)
        sum += input[r * (PAST + TILE) + t + j] * tap[r * KERNEL + j];
      if (i < OWN) mixed[t * OWN + i] = sum / (1.0f + precise::exp(-sum));
    }
  }
  if (thread_index < taken) {
    const float x = to_decay + static_cast<float>(dt_bias[head]);
    // log(1 + e) to the last digit also where e is small: what 1 + e loses, the quotient restores.
    const float e = precise::exp(x < 0.0f ? x : -x);
    const float u = 1.0f + e;
    const float log1p_e = u == 1.0f ? e : precise::log(u) * e / (u - 1.0f);
    const float softplus = (x > 0.0f ? x : 0.0f) + log1p_e;
    decay[thread_index] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
    beta[thread_index] = 1.0f / (1.0f + precise::exp(-to_beta));
  }

  const int next = start + TILE;
  auto ahead = own + static_cast<size_t>(next) * WIDTH;
  #pragma unroll
  for (int r = 0; r < ROUNDS; ++r) {
    #pragma unroll
    for (int j = 0; j < PAST; ++j)
      input[r * (PAST + TILE) + j] = input[r * (PAST + TILE) + TILE + j];
    #pragma unroll
    for (int t = 0; t < TILE; ++t)
      input[r * (PAST + TILE) + PAST + t] = next + t < tokens && next + t >= padded
          ? static_cast<float>(ahead[t * WIDTH + channel[r]])
          : 0.0f;
  }
  if (thread_index < TILE && next + thread_index < tokens) {
    to_beta = static_cast<float>(ahead[thread_index * WIDTH + GATES + head]);
    to_decay = static_cast<float>(ahead[thread_index * WIDTH + GATES + NV + head]);
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // l2 norms of q and k, one SIMD group to a token; q is scaled by DK ** -0.5.
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
    const float of_query =
        precise::rsqrt(simd_sum(qq) + 1e-6f) * precise::rsqrt(static_cast<float>(DK));
    const float of_key = precise::rsqrt(simd_sum(kk) + 1e-6f);
    kq = simd_sum(kq);
    if (lane == 0) {
      to_query[t] = of_query;
      to_key[t] = of_key;
      key_query[t] = kq * of_query * of_key;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  // The rule. S q after the update is decay (S q) + delta (k . q), so that both dot products are
  // with the state as it was, and one round of exchanges serves both.
  for (int t = 0; t < taken; ++t) {
    float query[COLUMNS];
    float key[COLUMNS];
    #pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const int at = t * OWN + c / 4 * LANES * 4 + column + c % 4;
      query[c] = mixed[at];
      key[c] = mixed[at + DK];
    }
    float recalled[PASSES];
    float out[PASSES];
    #pragma unroll
    for (int p = 0; p < PASSES; ++p) {
      recalled[p] = 0.0f;
      out[p] = 0.0f;
      #pragma unroll
      for (int c = 0; c < COLUMNS; ++c) {
        recalled[p] += rows[p * COLUMNS + c] * key[c];
        out[p] += rows[p * COLUMNS + c] * query[c];
      }
    }
    #pragma unroll
    for (int step = 1; step < LANES; step *= 2) {
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        recalled[p] += simd_shuffle_xor(recalled[p], static_cast<ushort>(step));
        out[p] += simd_shuffle_xor(out[p], static_cast<ushort>(step));
      }
    }
    #pragma unroll
    for (int p = 0; p < PASSES; ++p) {
      const int height = row - part * HEIGHT + p * ABREAST;
      const float delta =
          (mixed[t * OWN + 2 * DK + height] - decay[t] * to_key[t] * recalled[p]) * beta[t];
      const float along = delta * to_key[t];
      #pragma unroll
      for (int c = 0; c < COLUMNS; ++c)
        rows[p * COLUMNS + c] = decay[t] * rows[p * COLUMNS + c] + along * key[c];
      if (lane % LANES == 0)
        values[t * HEIGHT + height] = decay[t] * to_query[t] * out[p] + delta * key_query[t];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  const size_t place_of_tile = static_cast<size_t>(batch) * length + start;
  auto said = y + place_of_tile * NV * DV + head * DV + part * HEIGHT;
  if (NORMED) {
    // RMS norm over the head, times silu(z), one SIMD group to a token.
    for (int t = simd; t < taken; t += SIMDS) {
      auto z = projected + (place_of_tile + t) * WIDTH + CHANNELS + head * DV;
      float squares = 0.0f;
      for (int i = lane; i < DV; i += 32) squares += values[t * HEIGHT + i] * values[t * HEIGHT + i];
      const float mean = simd_sum(squares) / static_cast<float>(DV);
      const float scale = precise::rsqrt(mean + static_cast<float>(eps[0]));
      for (int i = lane; i < DV; i += 32) {
        const float gate = static_cast<float>(z[i]);
        const float gated = gate / (1.0f + precise::exp(-gate)) * static_cast<float>(norm[i]);
        said[t * NV * DV + i] = static_cast<OutT>(values[t * HEIGHT + i] * scale * gated);
      }
    }
  } else {
    for (int i = thread_index; i < taken * HEIGHT; i += THREADS)
      said[i / HEIGHT * NV * DV + i % HEIGHT] = static_cast<OutT>(values[i]);
  }
}

for (int i = thread_index; i < (length - tokens) * HEIGHT; i += THREADS) {
  const size_t token = static_cast<size_t>(batch) * length + tokens + i / HEIGHT;
  y[token * NV * DV + head * DV + part * HEIGHT + i % HEIGHT] = static_cast<OutT>(0.0f);
}
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    state_out[((batch * NV + head) * DV + row + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4] =
        rows[p * COLUMNS + c];
// Each channel's last inputs are passed on by one threadgroup.
#pragma unroll
for (int r = 0; r < ROUNDS; ++r) {
  const int i = thread_index + r * THREADS;
  if (i < OWN && (i >= 2 * DK || (head % GROUP == 0 && part == 0))) {
    #pragma unroll
    for (int j = 0; j < PAST; ++j) {
      const int at = tokens + j - PAST;
      auto before = conv + (batch * PAST + at + PAST) * CHANNELS + channel[r];
      auto now = own + static_cast<size_t>(at < 0 ? 0 : at) * WIDTH + channel[r];
      const float x = at < 0 ? static_cast<float>(*before) : at < padded ? 0.0f : static_cast<float>(*now);
      conv_out[(batch * PAST + j) * CHANNELS + channel[r]] = static_cast<InT>(x);
    }
  }
}
