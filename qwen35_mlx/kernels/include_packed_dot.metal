// Included by other bodies: one chunk of x, in values[CHUNK], times the same chunk of ROWS rows of
// w (words, scale, bias), weighted by dot_weight and added to acc[ROWS]. Overwrites values.

// A value of w is not shifted down by its `shift`, and so is too large by a power of two.
// Divide x by that power instead, once for all rows.
float x_sum = 0.0f;
#pragma unroll
for (int n = 0; n < CHUNK; ++n) {
#include "include_value_place.metal"
  x_sum += values[n];
  values[n] *= 1.0f / static_cast<float>(1u << shift);
}
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  float dot = 0.0f;
  #pragma unroll
  for (int n = 0; n < CHUNK; ++n) {
#include "include_value_place.metal"
    uint32_t bits = words[r][word] >> down;
    if (offset + BITS > 32) bits |= words[r][(word + 1) % CHUNK_WORDS] << (32 - offset);
    const uint32_t field = bits & (VALUE_MASK << shift);
    dot += values[n] * (as_type<float>(TWO_TO_23 | field) - as_type<float>(TWO_TO_23));
  }
  acc[r] += dot_weight * (scale[r] * dot + bias[r] * x_sum);
}
