// A Gated DeltaNet layer between its two projections, for a few tokens, in one dispatch: causal
// convolution, SiLU, l2 norm of q and k, gates, the delta rule, the gated norm.
//
// A threadgroup has one value head. A SIMD group keeps PASSES * 32 / LANES rows of its state in
// registers, LANES lanes to a row, so that a dot product over a row takes few exchanges.
//
// projected  [B, L, 2 NK DK + 2 NV DV + 2 NV]   q | k | v | z | b | a of every token
// conv       [B, KERNEL - 1, 2 NK DK + NV DV]   inputs of the convolution before these tokens
// state      [B, NV, DV, DK] float32
// taps       [KERNEL, 2 NK DK + NV DV] float32
// decay_rate [NV], dt_bias [NV], norm [DV], eps [1]   float32
// count      [1] int32    how many of the L tokens to take; the others leave no trace, their y is 0
// padding    [B] int32    tokens at the start of each row that leave no trace
// -> y [B, L, NV DV], conv_out, state_out

constexpr int GROUP = NV / NK;
constexpr int CHANNELS = 2 * NK * DK + NV * DV;
constexpr int GATES = CHANNELS + NV * DV;
constexpr int WIDTH = GATES + 2 * NV;
constexpr int PAST = KERNEL - 1;
constexpr int OWN = 2 * DK + DV;          // channels of one head
constexpr int ABREAST = 32 / LANES;       // rows a SIMD group works on at once
constexpr int SIMDS = DV / (ABREAST * PASSES);
constexpr int THREADS = 32 * SIMDS;
constexpr int COLUMNS = DK / LANES;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int head = place % NV;
const int batch = place / NV;
const int key_head = head / GROUP;
const int tokens = static_cast<int>(count[0]);
const int padded = static_cast<int>(padding[batch]);
auto own = projected + static_cast<size_t>(batch) * L * WIDTH;
auto said = y + static_cast<size_t>(batch) * L * NV * DV + head * DV;

// Per token q | k | v, convolved; lanes read runs of four.
alignas(16) threadgroup float mixed[L * OWN];
threadgroup float values[L * DV];         // per token what the rule gives
threadgroup float decay[L];
threadgroup float beta[L];
threadgroup float to_query[L];            // what makes q and k unit vectors, and scales q
threadgroup float to_key[L];
threadgroup float key_query[L];           // k . q

// This lane's columns of its rows: runs of four, so that neighbours read neighbouring words.
const int column = lane % LANES * 4;
const int row = simd * ABREAST * PASSES + lane / LANES;
float rows[PASSES * COLUMNS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    rows[p * COLUMNS + c] = static_cast<float>(
        state[((batch * NV + head) * DV + row + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4]);

for (int i = thread_index; i < OWN; i += THREADS) {
  const int channel = i < DK ? key_head * DK + i
      : i < 2 * DK           ? NK * DK + key_head * DK + i - DK
                             : 2 * NK * DK + head * DV + i - 2 * DK;
  float input[PAST + L];
  #pragma unroll
  for (int j = 0; j < PAST; ++j)
    input[j] = static_cast<float>(conv[(batch * PAST + j) * CHANNELS + channel]);
  #pragma unroll
  for (int t = 0; t < L; ++t)
    input[PAST + t] =
        t < tokens && t >= padded ? static_cast<float>(own[t * WIDTH + channel]) : 0.0f;
  #pragma unroll
  for (int t = 0; t < L; ++t) {
    float sum = 0.0f;
    #pragma unroll
    for (int j = 0; j < KERNEL; ++j)
      sum += input[t + j] * static_cast<float>(taps[j * CHANNELS + channel]);
    mixed[t * OWN + i] = sum / (1.0f + precise::exp(-sum));
  }
  // Each channel's last inputs are passed on by one threadgroup.
  if (i >= 2 * DK || head % GROUP == 0) {
    for (int j = 0; j < PAST; ++j) {
      const int at = tokens + j - PAST;
      auto before = conv + (batch * PAST + at + PAST) * CHANNELS + channel;
      auto now = own + (at < 0 ? 0 : at) * WIDTH + channel;
      const float x = at < 0 ? static_cast<float>(*before) : at < padded ? 0.0f : static_cast<float>(*now);
      conv_out[(batch * PAST + j) * CHANNELS + channel] = static_cast<InT>(x);
    }
  }
}
if (thread_index < tokens) {
  const float b = static_cast<float>(own[thread_index * WIDTH + GATES + head]);
  const float a = static_cast<float>(own[thread_index * WIDTH + GATES + NV + head]);
  const float x = a + static_cast<float>(dt_bias[head]);
  // log(1 + e) to the last digit also where e is small: what 1 + e loses, the quotient restores.
  const float e = precise::exp(x < 0.0f ? x : -x);
  const float u = 1.0f + e;
  const float log1p_e = u == 1.0f ? e : precise::log(u) * e / (u - 1.0f);
  const float softplus = (x > 0.0f ? x : 0.0f) + log1p_e;
  decay[thread_index] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
  beta[thread_index] = 1.0f / (1.0f + precise::exp(-b));
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// l2 norms of q and k, one SIMD group to a token; q is scaled by DK ** -0.5.
for (int t = simd; t < tokens; t += SIMDS) {
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
for (int t = 0; t < tokens; ++t) {
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
    const int height = row + p * ABREAST;
    const float delta =
        (mixed[t * OWN + 2 * DK + height] - decay[t] * to_key[t] * recalled[p]) * beta[t];
    const float along = delta * to_key[t];
    #pragma unroll
    for (int c = 0; c < COLUMNS; ++c)
      rows[p * COLUMNS + c] = decay[t] * rows[p * COLUMNS + c] + along * key[c];
    if (lane % LANES == 0)
      values[t * DV + height] = decay[t] * to_query[t] * out[p] + delta * key_query[t];
  }
}
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    state_out[((batch * NV + head) * DV + row + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4] =
        rows[p * COLUMNS + c];
threadgroup_barrier(mem_flags::mem_threadgroup);

// RMS norm over the head, times silu(z), one SIMD group to a token.
for (int t = simd; t < L; t += SIMDS) {
  auto z = own + t * WIDTH + CHANNELS + head * DV;
  float squares = 0.0f;
  if (t < tokens)
    for (int i = lane; i < DV; i += 32) squares += values[t * DV + i] * values[t * DV + i];
  const float mean = simd_sum(squares) / static_cast<float>(DV);
  const float scale = precise::rsqrt(mean + static_cast<float>(eps[0]));
  for (int i = lane; i < DV; i += 32) {
    const float gate = static_cast<float>(z[i]);
    const float gated = gate / (1.0f + precise::exp(-gate)) * static_cast<float>(norm[i]);
    said[t * NV * DV + i] = static_cast<OutT>(t < tokens ? values[t * DV + i] * scale * gated : 0.0f);
  }
}
