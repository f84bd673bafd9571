// The first of three dispatches of a Gated DeltaNet layer over many tokens: all that the delta rule
// reads. Causal convolution and SiLU of q, k and v, l2 norm of q and k, decay and beta.
//
// Launch: one SIMD group per tile of TILE tokens and block of 2 DK channels (q and k of one key
// head, or as many channels of v), B * ceil(L / TILE) * BLOCKS in all; SIMD_GROUPS to a
// threadgroup.
//
// projected  [B, L, 2 NK DK + 2 NV DV + 2 NV]   q | k | v | z | b | a of every token
// conv       [B, KERNEL - 1, 2 NK DK + NV DV]   inputs of the convolution before these tokens
// taps       [KERNEL, 2 NK DK + NV DV] float32
// decay_rate [NV], dt_bias [NV] float32
// -> q, k        [B, L, NK, DK] float32, unit vectors; q times DK ** -0.5
//    v           [B, L, NV, DV] float32
//    decay, beta [B, L, NV] float32
//    overlap     [B, L, NK] float32   k . q
//    conv_out    conv after the last token

constexpr int GROUP = NV / NK;
constexpr int CHANNELS = 2 * NK * DK + NV * DV;
constexpr int GATES = CHANNELS + NV * DV;
constexpr int WIDTH = GATES + 2 * NV;
constexpr int PAST = KERNEL - 1;
constexpr int BLOCK_CHANNELS = 2 * DK;
constexpr int BLOCKS = NK + (NV * DV + BLOCK_CHANNELS - 1) / BLOCK_CHANNELS;
constexpr int LANE_CHANNELS = BLOCK_CHANNELS / 32;   // of a key block the first half is q

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_index = static_cast<int>(threadgroup_position_in_grid.x) * SIMD_GROUPS
    + static_cast<int>(simdgroup_index_in_threadgroup);
const int block = simd_index % BLOCKS;
const int tokens = static_cast<int>(projected_shape[1]);
const int tiles = (tokens + TILE - 1) / TILE;
const int start = simd_index / BLOCKS % tiles * TILE;
const int batch = simd_index / BLOCKS / tiles;
const bool is_key_block = block < NK;

if (batch < B) {
  auto projected_rows = projected + static_cast<size_t>(batch) * tokens * WIDTH;

  int channel[LANE_CHANNELS];
  bool in_range[LANE_CHANNELS];
  float tap[LANE_CHANNELS * KERNEL];
  float window[LANE_CHANNELS * KERNEL];
  #pragma unroll
  for (int e = 0; e < LANE_CHANNELS; ++e) {
    const int i = lane + e * 32;
    const int v_channel = (block - NK) * BLOCK_CHANNELS + i;
    in_range[e] = is_key_block || v_channel < NV * DV;
    channel[e] = is_key_block ? (i < DK ? 0 : NK * DK - DK) + block * DK + i
        : in_range[e]        ? 2 * NK * DK + v_channel
                             : 0;
    #pragma unroll
    for (int j = 0; j < KERNEL; ++j)
      tap[e * KERNEL + j] = static_cast<float>(taps[j * CHANNELS + channel[e]]);
    // The oldest entry is shifted out before it is used.
    window[e * KERNEL] = 0.0f;
    #pragma unroll
    for (int j = 0; j < PAST; ++j) {
      const int position = start + j - PAST;
      auto conv_entry =
          conv + (batch * PAST + (position < 0 ? position + PAST : 0)) * CHANNELS + channel[e];
      auto projected_entry =
          projected_rows + static_cast<size_t>(position < 0 ? 0 : position) * WIDTH + channel[e];
      window[e * KERNEL + j + 1] =
          position < 0 ? static_cast<float>(*conv_entry) : static_cast<float>(*projected_entry);
    }
  }

  // The next token is loaded before this one is stored: a compiler moves no load across a store.
  InT next[LANE_CHANNELS];
  #pragma unroll
  for (int e = 0; e < LANE_CHANNELS; ++e)
    next[e] = projected_rows[static_cast<size_t>(start < tokens ? start : 0) * WIDTH + channel[e]];
  for (int t = start; t < start + TILE && t < tokens; ++t) {
    const size_t token = static_cast<size_t>(batch) * tokens + t;
    #pragma unroll
    for (int e = 0; e < LANE_CHANNELS; ++e) {
      #pragma unroll
      for (int j = 0; j < PAST; ++j) window[e * KERNEL + j] = window[e * KERNEL + j + 1];
      window[e * KERNEL + PAST] = static_cast<float>(next[e]);
    }
    const size_t next_row = static_cast<size_t>(t + 1 < tokens ? t + 1 : t) * WIDTH;
    #pragma unroll
    for (int e = 0; e < LANE_CHANNELS; ++e) next[e] = projected_rows[next_row + channel[e]];
    float mixed[LANE_CHANNELS];
    #pragma unroll
    for (int e = 0; e < LANE_CHANNELS; ++e) {
      float sum = 0.0f;
      #pragma unroll
      for (int j = 0; j < KERNEL; ++j) sum += window[e * KERNEL + j] * tap[e * KERNEL + j];
      mixed[e] = sum / (1.0f + precise::exp(-sum));
    }
    if (is_key_block) {
      float qq = 0.0f;
      float kk = 0.0f;
      float kq = 0.0f;
      #pragma unroll
      for (int e = 0; e < LANE_CHANNELS / 2; ++e) {
        qq += mixed[e] * mixed[e];
        kk += mixed[e + LANE_CHANNELS / 2] * mixed[e + LANE_CHANNELS / 2];
        kq += mixed[e] * mixed[e + LANE_CHANNELS / 2];
      }
      const float q_scale =
          precise::rsqrt(simd_sum(qq) + 1e-6f) * precise::rsqrt(static_cast<float>(DK));
      const float k_scale = precise::rsqrt(simd_sum(kk) + 1e-6f);
      kq = simd_sum(kq);
      #pragma unroll
      for (int e = 0; e < LANE_CHANNELS / 2; ++e) {
        q[(token * NK + block) * DK + lane + e * 32] = mixed[e] * q_scale;
        k[(token * NK + block) * DK + lane + e * 32] = mixed[e + LANE_CHANNELS / 2] * k_scale;
      }
      if (lane == 0) overlap[token * NK + block] = kq * q_scale * k_scale;
    } else {
      #pragma unroll
      for (int e = 0; e < LANE_CHANNELS; ++e)
        if (in_range[e]) v[token * NV * DV + channel[e] - 2 * NK * DK] = mixed[e];
    }
  }

  if (start + TILE >= tokens) {
    #pragma unroll
    for (int e = 0; e < LANE_CHANNELS; ++e)
      if (in_range[e])
        #pragma unroll
        for (int j = 0; j < PAST; ++j)
          conv_out[(batch * PAST + j) * CHANNELS + channel[e]] =
              static_cast<InT>(window[e * KERNEL + j + 1]);
  }

  // Gates of the value heads that share this key head, one token and head per lane.
  if (is_key_block) {
    for (int i = lane; i < TILE * GROUP; i += 32) {
      const int t = start + i / GROUP;
      const int head = block * GROUP + i % GROUP;
      if (t < tokens) {
        auto gates = projected_rows + static_cast<size_t>(t) * WIDTH + GATES + head;
        const float x = static_cast<float>(gates[NV]) + static_cast<float>(dt_bias[head]);
        // log1p(exp(-|x|)): the quotient restores the digits that 1 + exp(-|x|) loses.
        const float exp_x = precise::exp(x < 0.0f ? x : -x);
        const float u = 1.0f + exp_x;
        const float log1p_exp = u == 1.0f ? exp_x : precise::log(u) * exp_x / (u - 1.0f);
        const float softplus = (x > 0.0f ? x : 0.0f) + log1p_exp;
        const size_t gate_index = (static_cast<size_t>(batch) * tokens + t) * NV + head;
        decay[gate_index] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
        beta[gate_index] = 1.0f / (1.0f + precise::exp(-static_cast<float>(gates[0])));
      }
    }
  }
}
