// Included by matvec.metal and matvec_light.metal: a slab of this thread's chunk of all rows of x,
// which staged[] holds from x_place on, times the same values of ROWS rows of w (words), added to
// dot[ROWS][TOKENS]; the sums of x are added to x_sum. At the end of a group, but for the last of a
// chunk, both go to acc[ROWS TOKENS], times its scale and bias. x is normed here if NORM_HERE.
//
// Products with plain values go to acc at once, by FMA: where weights are loaded values, not computed
// ones, a compiler may multiply four of them at once at some TOKENS, and round the products.

#pragma unroll
for (int tile = 0; tile < SLAB / TILE; ++tile) {
  float values[TOKENS][4 * TILE];
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    #pragma unroll
    for (int q = 0; q < TILE; ++q) {
      const vec<InT, 4> quad =
          staged[t * TOKEN_STRIDE + (tile * TILE + q) * QUAD_STRIDE + x_place];
      values[t][4 * q] = static_cast<float>(quad.x);
      values[t][4 * q + 1] = static_cast<float>(quad.y);
      values[t][4 * q + 2] = static_cast<float>(quad.z);
      values[t][4 * q + 3] = static_cast<float>(quad.w);
      if (NORM_HERE) {
        const vec<NormT, 4> factor = norm_quads[x_place + tile * TILE + q];
        const float a = values[t][4 * q] * rms_scale[t] * static_cast<float>(factor.x);
        const float b = values[t][4 * q + 1] * rms_scale[t] * static_cast<float>(factor.y);
        const float c = values[t][4 * q + 2] * rms_scale[t] * static_cast<float>(factor.z);
        const float d = values[t][4 * q + 3] * rms_scale[t] * static_cast<float>(factor.w);
        values[t][4 * q] = static_cast<float>(static_cast<InT>(a));
        values[t][4 * q + 1] = static_cast<float>(static_cast<InT>(b));
        values[t][4 * q + 2] = static_cast<float>(static_cast<InT>(c));
        values[t][4 * q + 3] = static_cast<float>(static_cast<InT>(d));
      }
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
