// Included by decode_attention_partial*.metal: from each lane's part of the scores of a tile
// (score_part) to `weight`, that of one key and head in each lane; rescales the sums so far.

#pragma unroll
for (int half_count = SCORES / 2; half_count > 0; half_count >>= 1) {
  const bool upper = (lane & half_count) != 0;
  #pragma unroll
  for (int p = 0; p < SCORES / 2; ++p) {  // a constant, or compilers do not unroll it
    if (p < half_count) {
      const float low = score_part[p];
      const float high = score_part[p + half_count];
      score_part[p] = (upper ? high : low)
          + simd_shuffle_xor(upper ? low : high, static_cast<ushort>(half_count));
    }
  }
}
float score = score_part[0];
#pragma unroll
for (int distance = SCORES; distance < 32; distance <<= 1)
  score += simd_shuffle_xor(score, static_cast<ushort>(distance));

// Of key lane / SCORE_HEADS and head lane % SCORE_HEADS; from lane SCORES on they repeat.
const bool in_range = first_key + lane / SCORE_HEADS % KEY_TILE < stop;
if (!in_range) score = -INFINITY;
float m_new = score;
#pragma unroll
for (int distance = SCORE_HEADS; distance < SCORES; distance <<= 1) {
  const float other = simd_shuffle_xor(m_new, static_cast<ushort>(distance));
  m_new = other > m_new ? other : m_new;
}
m_new = m_new > m ? m_new : m;
const float rescale = precise::exp(m - m_new);
const float weight = precise::exp(score - m_new);
m = m_new;
l = l * rescale + weight;
#pragma unroll
for (int h = 0; h < BLOCK_HEADS; ++h) {
  const float head_rescale = simd_broadcast(rescale, static_cast<ushort>(h));
  #pragma unroll
  for (int c = 0; c < QUADS; ++c) {
    acc[h * QUADS + c].x *= head_rescale;
    acc[h * QUADS + c].y *= head_rescale;
    acc[h * QUADS + c].z *= head_rescale;
    acc[h * QUADS + c].w *= head_rescale;
  }
}
