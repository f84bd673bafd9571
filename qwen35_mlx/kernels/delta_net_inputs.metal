// What the delta rule reads, for many tokens: causal convolution and SiLU of q, k and v, l2 norm of
// q and k, gates. The first dispatch of a Gated DeltaNet layer over a prompt.
//
// A SIMD group takes RUN tokens of 2 DK channels: q and k of one key head, or as many of v.
//
// projected  [B, L, 2 NK DK + 2 NV DV + 2 NV]   q | k | v | z | b | a of every token
// conv       [B, KERNEL - 1, 2 NK DK + NV DV]   inputs of the convolution before these tokens
// taps       [KERNEL, 2 NK DK + NV DV] float32
// decay_rate [NV], dt_bias [NV]   float32
// padding    [B] int32    tokens at the start of each row that leave no trace; none where not PADDED
// -> q, k    [B, L, NK, DK] float32, unit vectors; q times DK ** -0.5
//    v       [B, L, NV, DV] float32
//    decay, beta [B, L, NV] float32
//    overlap [B, L, NK] float32   k . q
//    conv_out

constexpr int GROUP = NV / NK;
constexpr int CHANNELS = 2 * NK * DK + NV * DV;
constexpr int GATES = CHANNELS + NV * DV;
constexpr int WIDTH = GATES + 2 * NV;
constexpr int PAST = KERNEL - 1;
constexpr int BLOCK = 2 * DK;
constexpr int BLOCKS = NK + (NV * DV + BLOCK - 1) / BLOCK;
constexpr int EACH = BLOCK / 32;          // channels of a lane; the first half is q

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x) * SIMDS
    + static_cast<int>(simdgroup_index_in_threadgroup);
const int block = place % BLOCKS;
const int tokens = static_cast<int>(projected_shape[1]);
const int runs = (tokens + RUN - 1) / RUN;
const int start = place / BLOCKS % runs * RUN;
const int batch = place / BLOCKS / runs;
const bool keyed = block < NK;

if (batch < B) {
  const int padded = PADDED ? static_cast<int>(padding[batch]) : 0;
  auto own = projected + static_cast<size_t>(batch) * tokens * WIDTH;

  int channel[EACH];
  bool there[EACH];
  float tap[EACH * KERNEL];
  float window[EACH * KERNEL];
  #pragma unroll
  for (int e = 0; e < EACH; ++e) {
    const int i = lane + e * 32;
    const int value = (block - NK) * BLOCK + i;
    there[e] = keyed || value < NV * DV;
    channel[e] = keyed ? (i < DK ? 0 : NK * DK - DK) + block * DK + i
        : there[e]     ? 2 * NK * DK + value
                       : 0;
    #pragma unroll
    for (int j = 0; j < KERNEL; ++j)
      tap[e * KERNEL + j] = static_cast<float>(taps[j * CHANNELS + channel[e]]);
    // The oldest entry is the first to go.
    window[e * KERNEL] = 0.0f;
    #pragma unroll
    for (int j = 0; j < PAST; ++j) {
      const int at = start + j - PAST;
      auto before = conv + (batch * PAST + (at < 0 ? at + PAST : 0)) * CHANNELS + channel[e];
      auto now = own + static_cast<size_t>(at < 0 ? 0 : at) * WIDTH + channel[e];
      window[e * KERNEL + j + 1] =
          at < 0 ? static_cast<float>(*before) : at < padded ? 0.0f : static_cast<float>(*now);
    }
  }

  // A token is asked for before the one before it is stored: a compiler moves no load across that.
  InT fresh[EACH];
  #pragma unroll
  for (int e = 0; e < EACH; ++e)
    fresh[e] = own[static_cast<size_t>(start < tokens ? start : 0) * WIDTH + channel[e]];
  for (int t = start; t < start + RUN && t < tokens; ++t) {
    const size_t token = static_cast<size_t>(batch) * tokens + t;
    #pragma unroll
    for (int e = 0; e < EACH; ++e) {
      #pragma unroll
      for (int j = 0; j < PAST; ++j) window[e * KERNEL + j] = window[e * KERNEL + j + 1];
      window[e * KERNEL + PAST] = t >= padded ? static_cast<float>(fresh[e]) : 0.0f;
    }
    const size_t following = static_cast<size_t>(t + 1 < tokens ? t + 1 : t) * WIDTH;
    #pragma unroll
    for (int e = 0; e < EACH; ++e) fresh[e] = own[following + channel[e]];
    float mixed[EACH];
    #pragma unroll
    for (int e = 0; e < EACH; ++e) {
      float sum = 0.0f;
      #pragma unroll
      for (int j = 0; j < KERNEL; ++j) sum += window[e * KERNEL + j] * tap[e * KERNEL + j];
      mixed[e] = sum / (1.0f + precise::exp(-sum));
    }
    if (keyed) {
      float qq = 0.0f;
      float kk = 0.0f;
      float kq = 0.0f;
      #pragma unroll
      for (int e = 0; e < EACH / 2; ++e) {
        qq += mixed[e] * mixed[e];
        kk += mixed[e + EACH / 2] * mixed[e + EACH / 2];
        kq += mixed[e] * mixed[e + EACH / 2];
      }
      const float to_query =
          precise::rsqrt(simd_sum(qq) + 1e-6f) * precise::rsqrt(static_cast<float>(DK));
      const float to_key = precise::rsqrt(simd_sum(kk) + 1e-6f);
      kq = simd_sum(kq);
      #pragma unroll
      for (int e = 0; e < EACH / 2; ++e) {
        q[(token * NK + block) * DK + lane + e * 32] = mixed[e] * to_query;
        k[(token * NK + block) * DK + lane + e * 32] = mixed[e + EACH / 2] * to_key;
      }
      if (lane == 0) overlap[token * NK + block] = kq * to_query * to_key;
    } else {
      #pragma unroll
      for (int e = 0; e < EACH; ++e)
        if (there[e]) v[token * NV * DV + channel[e] - 2 * NK * DK] = mixed[e];
    }
  }

  if (start + RUN >= tokens) {
    #pragma unroll
    for (int e = 0; e < EACH; ++e)
      if (there[e])
        #pragma unroll
        for (int j = 0; j < PAST; ++j)
          conv_out[(batch * PAST + j) * CHANNELS + channel[e]] =
              static_cast<InT>(window[e * KERNEL + j + 1]);
  }

  // Gates of the value heads that share this key head, a token and head to a lane.
  if (keyed) {
    for (int i = lane; i < RUN * GROUP; i += 32) {
      const int t = start + i / GROUP;
      const int head = block * GROUP + i % GROUP;
      if (t < tokens) {
        auto gates = own + static_cast<size_t>(t) * WIDTH + GATES + head;
        const float x = static_cast<float>(gates[NV]) + static_cast<float>(dt_bias[head]);
        // log(1 + e) to the last digit also where e is small: what 1 + e loses, the quotient restores.
        const float e = precise::exp(x < 0.0f ? x : -x);
        const float u = 1.0f + e;
        const float log1p_e = u == 1.0f ? e : precise::log(u) * e / (u - 1.0f);
        const float softplus = (x > 0.0f ? x : 0.0f) + log1p_e;
        const size_t at = (static_cast<size_t>(batch) * tokens + t) * NV + head;
        decay[at] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
        beta[at] = 1.0f / (1.0f + precise::exp(-static_cast<float>(gates[0])));
      }
    }
  }
}
