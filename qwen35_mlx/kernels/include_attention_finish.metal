// Included by decode_attention_partial*.metal: merges the sums of a token's SIMD groups and writes
// them.

#pragma unroll
for (int distance = SCORE_HEADS; distance < SCORES; distance <<= 1)
  l += simd_shuffle_xor(l, static_cast<ushort>(distance));

// Merge the results of the token's SIMD groups.
if (lane < BLOCK_HEADS) {
  shared_m[simd_group * BLOCK_HEADS + lane] = m;
  shared_l[simd_group * BLOCK_HEADS + lane] = l;
}
#pragma unroll
for (int h = 0; h < BLOCK_HEADS; ++h) {
  // Other SIMD groups may still read the queries, or the sums of the head before.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  #pragma unroll
  for (int c = 0; c < QUADS; ++c) {
    const int quad = lane * LANE_STEP + c * QUAD_STEP;
    if (quad < D / 4) {
      const int slot = token_slot * SHARED_QUADS + simd_group % TOKEN_SIMD_GROUPS * (D / 4);
      shared_quads[slot + quad] = acc[h * QUADS + c];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = token_thread; i < HEAD_BLOCKS * (D / 4); i += TOKEN_THREADS) {
    const int block = i / (D / 4);
    const int quad = i % (D / 4);
    const int g = (block * BLOCK_HEADS < GROUP - BLOCK_HEADS ? block * BLOCK_HEADS
                                                             : GROUP - BLOCK_HEADS) + h;
    auto block_m = shared_m + (token_slot * TOKEN_SIMD_GROUPS + block) * BLOCK_HEADS + h;
    auto block_l = shared_l + (token_slot * TOKEN_SIMD_GROUPS + block) * BLOCK_HEADS + h;
    float m_all = -INFINITY;
    for (int t = 0; t < KEY_GROUPS; ++t) {
      const float m_part = block_m[t * HEAD_BLOCKS * BLOCK_HEADS];
      m_all = m_part > m_all ? m_part : m_all;
    }
    float4 acc_sum;
    acc_sum.x = 0.0f;
    acc_sum.y = 0.0f;
    acc_sum.z = 0.0f;
    acc_sum.w = 0.0f;
    float l_sum = 0.0f;
    for (int t = 0; t < KEY_GROUPS; ++t) {
      const float l_part = block_l[t * HEAD_BLOCKS * BLOCK_HEADS];
      // m of a SIMD group without a key is -inf, and -inf - (-inf) would be NaN.
      if (l_part > 0.0f) {
        const float rescale = precise::exp(block_m[t * HEAD_BLOCKS * BLOCK_HEADS] - m_all);
        const float4 part =
            shared_quads[token_slot * SHARED_QUADS + (t * HEAD_BLOCKS + block) * (D / 4) + quad];
        acc_sum.x += part.x * rescale;
        acc_sum.y += part.y * rescale;
        acc_sum.z += part.z * rescale;
        acc_sum.w += part.w * rescale;
        l_sum += l_part * rescale;
      }
    }
    const size_t row =
        ((static_cast<size_t>(batch) * H + kv_head * GROUP + g) * tokens + token) * splits + split;
    partial_acc[row * D + quad * 4] = acc_sum.x;
    partial_acc[row * D + quad * 4 + 1] = acc_sum.y;
    partial_acc[row * D + quad * 4 + 2] = acc_sum.z;
    partial_acc[row * D + quad * 4 + 3] = acc_sum.w;
    if (quad == 0) {
      partial_ml[row * 2] = m_all;
      partial_ml[row * 2 + 1] = l_sum;
    }
  }
}
