// Included by matvec.metal: this thread's chunk of the staged slab of all rows of x, times the same
// values of ROWS rows of w (words), added to dot[ROWS][TOKENS]; the sums of x are added to x_sum.
// Between the groups of a chunk, both go to acc[ROWS TOKENS], times scale and bias. Products with
// plain values go there at once, by FMA: a compiler may multiply values that are merely loaded four
// at once, at some TOKENS only, and round the products.

#pragma unroll
for (int tile = 0; tile < SLAB / TILE; ++tile) {
  float values[TOKENS][4 * TILE];
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    #pragma unroll
    for (int q = 0; q < TILE; ++q) {
      const vec<InT, 4> quad = staged[(t * SLAB + tile * TILE + q) * STRIDE + set_thread];
      values[t][4 * q] = static_cast<float>(quad.x);
      values[t][4 * q + 1] = static_cast<float>(quad.y);
      values[t][4 * q + 2] = static_cast<float>(quad.z);
      values[t][4 * q + 3] = static_cast<float>(quad.w);
    }
    if (AFFINE) {
      #pragma unroll
      for (int i = 0; i < 4 * TILE; ++i)
        x_sum[t][(4 * (slab * SLAB + tile * TILE) + i) * CHUNK_GROUPS / CHUNK] += values[t][i];
    }
  }
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    #pragma unroll
    for (int i = 0; i < 4 * TILE; ++i) {
      const int n = 4 * (slab * SLAB + tile * TILE) + i;  // in the chunk
#include "include_value_place.metal"
      float weight = 0.0f;
      if (AFFINE) {
        uint32_t bits = words[r][word] >> down;
        if (offset + BITS > 32) bits |= words[r][(word + 1) % CHUNK_WORDS] << (32 - offset);
        // 2^(23 - shift), whose low bits count 2^-shift: no value is shifted down any further.
        const uint32_t power = two_to_23 - (static_cast<uint32_t>(shift) << 23);
        const uint32_t field = bits & (VALUE_MASK << shift);
        weight = as_type<float>(power | field) - as_type<float>(power);
      } else {
#include "include_float_weight.metal"
      }
      #pragma unroll
      for (int t = 0; t < TOKENS; ++t) {
        if (PLAIN) acc[r * TOKENS + t] = fma(values[t][i], weight, acc[r * TOKENS + t]);
        else dot[r][t] += values[t][i] * weight;
      }
      if (!PLAIN && (n + 1) % GS == 0 && n + 1 < CHUNK) {
        const int g = n / GS;
        #pragma unroll
        for (int t = 0; t < TOKENS; ++t) {
          acc[r * TOKENS + t] += AFFINE ? scale[r][g] * dot[r][t] + bias[r][g] * x_sum[t][g]
                                        : scale[r][g] * dot[r][t];
          dot[r][t] = 0.0f;
        }
      }
    }
  }
}
