// A Gated DeltaNet layer between its two projections, for a few tokens, in one dispatch: causal
// convolution, SiLU, l2 norm of q and k, gates, the delta rule, the gated norm. The definition is
// `reference` in delta_net_reference.py.
//
// Launch: B * NV threadgroups of DV * LANES / (32 * PASSES) SIMD groups, one value head each. A
// SIMD group has PASSES * 32 / LANES rows of the head's state S in registers, LANES lanes to a row,
// so that a dot product over a row takes few exchanges.
//
// projected  [B, L, 2 NK DK + 2 NV DV + 2 NV]   q | k | v | z | b | a of every token
// conv       [B, KERNEL - 1, 2 NK DK + NV DV]   inputs of the convolution before these tokens
// state      [B, NV, DV, DK] float32
// taps       [KERNEL, 2 NK DK + NV DV] float32
// decay_rate [NV], dt_bias [NV], norm [DV] float32; EPS: bits of the norm's epsilon
// -> y       [B, L, NV DV]
//    conv_out, state_out   conv and state after the last token

constexpr int GROUP = NV / NK;
constexpr int CHANNELS = 2 * NK * DK + NV * DV;
constexpr int GATES = CHANNELS + NV * DV;
constexpr int WIDTH = GATES + 2 * NV;
constexpr int PAST = KERNEL - 1;
constexpr int HEAD_CHANNELS = 2 * DK + DV;            // q, k and v of one head
constexpr int ROWS_PER_PASS = 32 / LANES;             // rows that a SIMD group computes at once
constexpr int SIMD_GROUPS = DV / (ROWS_PER_PASS * PASSES);
constexpr int THREADS = 32 * SIMD_GROUPS;
constexpr int QUADS = DK / LANES / 4;                 // of four columns, per lane: wide loads
constexpr int VALUES_PER_LANE = (DV + 31) / 32;       // of a head, in the gated norm
constexpr int NORM_ROUNDS = (L + SIMD_GROUPS - 1) / SIMD_GROUPS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int head = threadgroup_index % NV;
const int batch = threadgroup_index / NV;
const int key_head = head / GROUP;
auto projected_rows = projected + static_cast<size_t>(batch) * L * WIDTH;
auto y_rows = y + static_cast<size_t>(batch) * L * NV * DV + head * DV;

// Of each token q | k | v after the convolution; lanes read four values at a time.
alignas(16) threadgroup float mixed[L * HEAD_CHANNELS];
threadgroup float raw_y[L * DV];          // output of the rule, before the gated norm
threadgroup float decay[L];
threadgroup float beta[L];
threadgroup float q_scale[L];             // 1 / |q| DK ** -0.5
threadgroup float k_scale[L];             // 1 / |k|
threadgroup float overlap[L];             // k . q

// This lane's columns of its rows: quads, so that neighbouring lanes read neighbouring words.
const int column = lane % LANES * 4;
const int row = simd_group * ROWS_PER_PASS * PASSES + lane / LANES;
const int state_offset = ((batch * NV + head) * DV + row) * DK + column;
float4 S[PASSES * QUADS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < QUADS; ++r)
    S[p * QUADS + r] = *reinterpret_cast<const device float4*>(
        state + state_offset + p * ROWS_PER_PASS * DK + r * LANES * 4);

// The gated norm's inputs are loaded early, to hide their latency: z of the tokens that this SIMD
// group will normalise, and the weights.
float z_values[NORM_ROUNDS * VALUES_PER_LANE];
float norm_weight[VALUES_PER_LANE];
#pragma unroll
for (int e = 0; e < VALUES_PER_LANE; ++e) {
  const int i = lane + 32 * e;
  norm_weight[e] = i < DV ? static_cast<float>(norm[i]) : 0.0f;
  #pragma unroll
  for (int round = 0; round < NORM_ROUNDS; ++round) {
    const int t = simd_group + round * SIMD_GROUPS;
    z_values[round * VALUES_PER_LANE + e] =
        i < DV && t < L ? static_cast<float>(projected_rows[t * WIDTH + CHANNELS + head * DV + i])
                        : 0.0f;
  }
}

// Decay and beta, by the threads that the convolution may leave idle.
if (THREADS - 1 - thread_index < L) {
  const int t = THREADS - 1 - thread_index;
  const float b = static_cast<float>(projected_rows[t * WIDTH + GATES + head]);
  const float a = static_cast<float>(projected_rows[t * WIDTH + GATES + NV + head]);
  const float x = a + static_cast<float>(dt_bias[head]);
  // log1p(exp(-|x|)): the quotient restores the digits that 1 + exp(-|x|) loses.
  const float exp_x = precise::exp(x < 0.0f ? x : -x);
  const float u = 1.0f + exp_x;
  const float log1p_exp = u == 1.0f ? exp_x : precise::log(u) * exp_x / (u - 1.0f);
  const float softplus = (x > 0.0f ? x : 0.0f) + log1p_exp;
  decay[t] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
  beta[t] = 1.0f / (1.0f + precise::exp(-b));
}

for (int i = thread_index; i < HEAD_CHANNELS; i += THREADS) {
  const int channel = i < DK ? key_head * DK + i
      : i < 2 * DK           ? NK * DK + key_head * DK + i - DK
                             : 2 * NK * DK + head * DV + i - 2 * DK;
  float input[PAST + L];
  #pragma unroll
  for (int j = 0; j < PAST; ++j)
    input[j] = static_cast<float>(conv[(batch * PAST + j) * CHANNELS + channel]);
  #pragma unroll
  for (int t = 0; t < L; ++t)
    input[PAST + t] = static_cast<float>(projected_rows[t * WIDTH + channel]);
  #pragma unroll
  for (int t = 0; t < L; ++t) {
    float sum = 0.0f;
    #pragma unroll
    for (int j = 0; j < KERNEL; ++j)
      sum += input[t + j] * static_cast<float>(taps[j * CHANNELS + channel]);
    mixed[t * HEAD_CHANNELS + i] = sum / (1.0f + precise::exp(-sum));
  }
  // One threadgroup writes a channel's last inputs: the first of those that share a key head.
  if (i >= 2 * DK || head % GROUP == 0) {
    for (int j = 0; j < PAST; ++j) {
      const int entry = L + j - PAST;
      auto conv_entry = conv + (batch * PAST + entry + PAST) * CHANNELS + channel;
      auto projected_entry = projected_rows + (entry < 0 ? 0 : entry) * WIDTH + channel;
      const float x =
          entry < 0 ? static_cast<float>(*conv_entry) : static_cast<float>(*projected_entry);
      conv_out[(batch * PAST + j) * CHANNELS + channel] = static_cast<InT>(x);
    }
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// l2 norms of q and k, one SIMD group per token.
for (int t = simd_group; t < L; t += SIMD_GROUPS) {
  float qq = 0.0f;
  float kk = 0.0f;
  float kq = 0.0f;
  for (int c = lane; c < DK; c += 32) {
    const float q = mixed[t * HEAD_CHANNELS + c];
    const float k = mixed[t * HEAD_CHANNELS + DK + c];
    qq += q * q;
    kk += k * k;
    kq += k * q;
  }
  const float q_inverse =
      precise::rsqrt(simd_sum(qq) + 1e-6f) * precise::rsqrt(static_cast<float>(DK));
  const float k_inverse = precise::rsqrt(simd_sum(kk) + 1e-6f);
  kq = simd_sum(kq);
  if (lane == 0) {
    q_scale[t] = q_inverse;
    k_scale[t] = k_inverse;
    overlap[t] = kq * q_inverse * k_inverse;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// The delta rule. S q after the update is decay (S q) + delta (k . q): both dot products use the
// state before the update, and share one round of exchanges.
for (int t = 0; t < L; ++t) {
  float4 q_quad[QUADS];
  float4 k_quad[QUADS];
  #pragma unroll
  for (int r = 0; r < QUADS; ++r) {
    auto entry = mixed + t * HEAD_CHANNELS + r * LANES * 4 + column;
    q_quad[r] = *reinterpret_cast<const threadgroup float4*>(entry);
    k_quad[r] = *reinterpret_cast<const threadgroup float4*>(entry + DK);
  }
  float s_k[PASSES];
  float s_q[PASSES];
  #pragma unroll
  for (int p = 0; p < PASSES; ++p) {
    // Two accumulators each, to shorten the chain of dependent additions.
    float s_k_2 = 0.0f;
    float s_q_2 = 0.0f;
    s_k[p] = 0.0f;
    s_q[p] = 0.0f;
    #pragma unroll
    for (int r = 0; r < QUADS; ++r) {
      const float4 s_quad = S[p * QUADS + r];
      s_k[p] += s_quad.x * k_quad[r].x;
      s_q[p] += s_quad.x * q_quad[r].x;
      s_k_2 += s_quad.y * k_quad[r].y;
      s_q_2 += s_quad.y * q_quad[r].y;
      s_k[p] += s_quad.z * k_quad[r].z;
      s_q[p] += s_quad.z * q_quad[r].z;
      s_k_2 += s_quad.w * k_quad[r].w;
      s_q_2 += s_quad.w * q_quad[r].w;
    }
    s_k[p] += s_k_2;
    s_q[p] += s_q_2;
  }
  #pragma unroll
  for (int distance = 1; distance < LANES; distance *= 2) {
    #pragma unroll
    for (int p = 0; p < PASSES; ++p) {
      s_k[p] += simd_shuffle_xor(s_k[p], static_cast<ushort>(distance));
      s_q[p] += simd_shuffle_xor(s_q[p], static_cast<ushort>(distance));
    }
  }
  #pragma unroll
  for (int p = 0; p < PASSES; ++p) {
    const int value_row = row + p * ROWS_PER_PASS;
    const float delta =
        (mixed[t * HEAD_CHANNELS + 2 * DK + value_row] - decay[t] * k_scale[t] * s_k[p]) *
        beta[t];
    const float scaled_delta = delta * k_scale[t];
    #pragma unroll
    for (int r = 0; r < QUADS; ++r) {
      S[p * QUADS + r].x = decay[t] * S[p * QUADS + r].x + scaled_delta * k_quad[r].x;
      S[p * QUADS + r].y = decay[t] * S[p * QUADS + r].y + scaled_delta * k_quad[r].y;
      S[p * QUADS + r].z = decay[t] * S[p * QUADS + r].z + scaled_delta * k_quad[r].z;
      S[p * QUADS + r].w = decay[t] * S[p * QUADS + r].w + scaled_delta * k_quad[r].w;
    }
    if (lane % LANES == 0)
      raw_y[t * DV + value_row] = decay[t] * q_scale[t] * s_q[p] + delta * overlap[t];
  }
}
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < QUADS; ++r)
    *reinterpret_cast<device float4*>(
        state_out + state_offset + p * ROWS_PER_PASS * DK + r * LANES * 4) = S[p * QUADS + r];
threadgroup_barrier(mem_flags::mem_threadgroup);

// RMS norm over the head, times silu(z), one SIMD group per token.
#pragma unroll
for (int round = 0; round < NORM_ROUNDS; ++round) {
  const int t = simd_group + round * SIMD_GROUPS;
  if (t < L) {
    float square_sum = 0.0f;
    for (int i = lane; i < DV; i += 32) square_sum += raw_y[t * DV + i] * raw_y[t * DV + i];
    const float mean = simd_sum(square_sum) / static_cast<float>(DV);
    const float scale = precise::rsqrt(mean + as_type<float>(EPS));
    #pragma unroll
    for (int e = 0; e < VALUES_PER_LANE; ++e) {
      const int i = lane + 32 * e;
      const float gate = z_values[round * VALUES_PER_LANE + e];
      const float gated = gate / (1.0f + precise::exp(-gate)) * norm_weight[e];
      if (i < DV) y_rows[t * NV * DV + i] = static_cast<OutT>(raw_y[t * DV + i] * scale * gated);
    }
  }
}
