// Included by other bodies: one chunk of x, in values[CHUNK], times the same chunk of ROWS rows of
// w (words, scale, bias), weighted by dot_weight and added to acc[ROWS]. Overwrites values.

// A value of an affine w is not shifted down by its `shift`, and so is too large by a power of two.
// Divide x by that power instead, once for all rows.
float x_sum[CHUNK_GROUPS];
#pragma unroll
for (int g = 0; g < CHUNK_GROUPS; ++g) x_sum[g] = 0.0f;
if (AFFINE) {
  #pragma unroll
  for (int n = 0; n < CHUNK; ++n) {
#include "include_value_place.metal"
    x_sum[n * CHUNK_GROUPS / CHUNK] += values[n];
    values[n] *= 1.0f / static_cast<float>(1u << shift);
  }
}
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  float dot = 0.0f;
  #pragma unroll
  for (int n = 0; n < CHUNK; ++n) {
#include "include_value_place.metal"
    float weight = 0.0f;
    if (AFFINE) {
      uint32_t bits = words[r][word] >> down;
      if (offset + BITS > 32) bits |= words[r][(word + 1) % CHUNK_WORDS] << (32 - offset);
      const uint32_t field = bits & (VALUE_MASK << shift);
      weight = as_type<float>(TWO_TO_23 | field) - as_type<float>(TWO_TO_23);
    } else {
#include "include_float_weight.metal"
    }
    dot += values[n] * weight;
    if ((n + 1) % GS == 0 || n + 1 == CHUNK) {
      const int g = n * CHUNK_GROUPS / CHUNK;
      acc[r] += dot_weight * FACTOR
          * (AFFINE ? scale[r][g] * dot + bias[r][g] * x_sum[g] : scale[r][g] * dot);
      dot = 0.0f;
    }
  }
}
