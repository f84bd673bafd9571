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
// decay_rate [NV], dt_bias [NV], norm [DV] float32; EPS the bits of the norm's epsilon
// count      [1] int32    how many of the L tokens to take; the others leave no trace, their y is 0;
//                         all where not COUNTED
// padding    [B] int32    tokens at the start of each row that leave no trace; none where not PADDED
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
constexpr int RUNS = DK / LANES / 4;      // of four columns, so that loads are wide
constexpr int EACH = (DV + 31) / 32;      // of a head's values to a lane
constexpr int TURNS = (L + SIMDS - 1) / SIMDS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int head = place % NV;
const int batch = place / NV;
const int key_head = head / GROUP;
const int tokens = COUNTED ? static_cast<int>(count[0]) : L;
const int padded = PADDED ? static_cast<int>(padding[batch]) : 0;
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
const int above = ((batch * NV + head) * DV + row) * DK + column;
float4 rows[PASSES * RUNS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < RUNS; ++r)
    rows[p * RUNS + r] = *reinterpret_cast<const device float4*>(
        state + above + p * ABREAST * DK + r * LANES * 4);

// What only the end needs is asked for now: the gated norm's tokens are dealt out to SIMD groups.
float gate_of[TURNS * EACH];
float norm_of[EACH];
#pragma unroll
for (int e = 0; e < EACH; ++e) {
  const int i = lane + 32 * e;
  norm_of[e] = i < DV ? static_cast<float>(norm[i]) : 0.0f;
  #pragma unroll
  for (int turn = 0; turn < TURNS; ++turn) {
    const int t = simd + turn * SIMDS;
    gate_of[turn * EACH + e] =
        i < DV && t < L ? static_cast<float>(own[t * WIDTH + CHANNELS + head * DV + i]) : 0.0f;
  }
}

// Gates, by threads that the convolution may leave idle.
if (THREADS - 1 - thread_index < L) {
  const int t = THREADS - 1 - thread_index;
  const float b = static_cast<float>(own[t * WIDTH + GATES + head]);
  const float a = static_cast<float>(own[t * WIDTH + GATES + NV + head]);
  const float x = a + static_cast<float>(dt_bias[head]);
  // log(1 + e) to the last digit also where e is small: what 1 + e loses, the quotient restores.
  const float e = precise::exp(x < 0.0f ? x : -x);
  const float u = 1.0f + e;
  const float log1p_e = u == 1.0f ? e : precise::log(u) * e / (u - 1.0f);
  const float softplus = (x > 0.0f ? x : 0.0f) + log1p_e;
  decay[t] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
  beta[t] = 1.0f / (1.0f + precise::exp(-b));
}

for (int i = thread_index; i < OWN; i += THREADS) {
  const int channel = i < DK ? key_head * DK + i
      : i < 2 * DK           ? NK * DK + key_head * DK + i - DK
                             : 2 * NK * DK + head * DV + i - 2 * DK;
  float input[PAST + L];
  #pragma unroll
  for (int j = 0; j < PAST; ++j)
    input[j] = static_cast<float>(conv[(batch * PAST + j) * CHANNELS + channel]);
  #pragma unroll
  for (int t = 0; t < L; ++t) {
    // Read first, asked whether it counts afterwards: else one load would wait for the other.
    const float x = static_cast<float>(own[t * WIDTH + channel]);
    input[PAST + t] = t < tokens && t >= padded ? x : 0.0f;
  }
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
  float4 query[RUNS];
  float4 key[RUNS];
  #pragma unroll
  for (int r = 0; r < RUNS; ++r) {
    auto at = mixed + t * OWN + r * LANES * 4 + column;
    query[r] = *reinterpret_cast<const threadgroup float4*>(at);
    key[r] = *reinterpret_cast<const threadgroup float4*>(at + DK);
  }
  float recalled[PASSES];
  float out[PASSES];
  #pragma unroll
  for (int p = 0; p < PASSES; ++p) {
    // Two sums each, so that one addition need not wait for the one before.
    float recalled_more = 0.0f;
    float out_more = 0.0f;
    recalled[p] = 0.0f;
    out[p] = 0.0f;
    #pragma unroll
    for (int r = 0; r < RUNS; ++r) {
      const float4 part = rows[p * RUNS + r];
      recalled[p] += part.x * key[r].x;
      out[p] += part.x * query[r].x;
      recalled_more += part.y * key[r].y;
      out_more += part.y * query[r].y;
      recalled[p] += part.z * key[r].z;
      out[p] += part.z * query[r].z;
      recalled_more += part.w * key[r].w;
      out_more += part.w * query[r].w;
    }
    recalled[p] += recalled_more;
    out[p] += out_more;
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
    for (int r = 0; r < RUNS; ++r) {
      rows[p * RUNS + r].x = decay[t] * rows[p * RUNS + r].x + along * key[r].x;
      rows[p * RUNS + r].y = decay[t] * rows[p * RUNS + r].y + along * key[r].y;
      rows[p * RUNS + r].z = decay[t] * rows[p * RUNS + r].z + along * key[r].z;
      rows[p * RUNS + r].w = decay[t] * rows[p * RUNS + r].w + along * key[r].w;
    }
    if (lane % LANES == 0)
      values[t * DV + height] = decay[t] * to_query[t] * out[p] + delta * key_query[t];
  }
}
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < RUNS; ++r)
    *reinterpret_cast<device float4*>(state_out + above + p * ABREAST * DK + r * LANES * 4) =
        rows[p * RUNS + r];
threadgroup_barrier(mem_flags::mem_threadgroup);

// RMS norm over the head, times silu(z), one SIMD group to a token.
#pragma unroll
for (int turn = 0; turn < TURNS; ++turn) {
  const int t = simd + turn * SIMDS;
  if (t < L) {
    float squares = 0.0f;
    if (t < tokens)
      for (int i = lane; i < DV; i += 32) squares += values[t * DV + i] * values[t * DV + i];
    const float mean = simd_sum(squares) / static_cast<float>(DV);
    const float scale = precise::rsqrt(mean + as_type<float>(EPS));
    #pragma unroll
    for (int e = 0; e < EACH; ++e) {
      const int i = lane + 32 * e;
      const float gate = gate_of[turn * EACH + e];
      const float gated = gate / (1.0f + precise::exp(-gate)) * norm_of[e];
      if (i < DV)
        said[t * NV * DV + i] =
            static_cast<OutT>(t < tokens ? values[t * DV + i] * scale * gated : 0.0f);
    }
  }
}
