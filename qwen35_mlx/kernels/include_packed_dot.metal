// Included by other bodies: one chunk of x, in values[CHUNK], times the same chunk of ROWS rows of
// w (words, scale, bias), weighted by dot_weight and added to acc[ROWS]. Overwrites values.

// A value of w is not shifted down within its half word, and so is too large by a power of two.
// Divide x by that power instead, once for all rows.
float x_sum = 0.0f;
#pragma unroll
for (int i = 0; i < CHUNK; ++i) {
  x_sum += values[i];
  values[i] *= 1.0f / static_cast<float>(1u << (i % VALUES_PER_HALF * BITS));
}
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const uint32_t chunk_words[4] = {words[r].x, words[r].y, words[r].z, words[r].w};
  float dot = 0.0f;
  #pragma unroll
  for (int i = 0; i < CHUNK; ++i) {
    const uint32_t half_word = i % VALUES_PER_WORD < VALUES_PER_HALF
        ? chunk_words[i / VALUES_PER_WORD]
        : chunk_words[i / VALUES_PER_WORD] >> 16;
    const uint32_t field = half_word & (VALUE_MASK << (i % VALUES_PER_HALF * BITS));
    dot += values[i] * (as_type<float>(TWO_TO_23 | field) - as_type<float>(TWO_TO_23));
  }
  acc[r] += dot_weight * (scale[r] * dot + bias[r] * x_sum);
}
