// Included by matvec.metal: stages one slab of one round of chunks of all rows of x, normed if NORM,
// in threadgroup memory.
//
// Quad q of the slab of chunk c of row t is staged at (t * SLAB + q) * STRIDE + c. All sets copy.

vec<InT, 4> loaded[TOKENS][COPIES];
#pragma unroll
for (int k = 0; k < COPIES; ++k) {
  const int j = k * THREADS + thread_index;
  const int i = (round * SET_THREADS + j / SLAB) * QUADS + slab * SLAB + j % SLAB;
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t)
    loaded[t][k] = x_quads[t * (IN / 4) + (i < IN / 4 ? i : IN / 4 - 1)];
}

if (NORM && round == 0 && slab == 0) {
  // A thread sums the squares of every SET_THREADS-th quad. Of a single slab it has the first ones.
  constexpr bool HAS_FIRST = SETS == 1 && SLABS == 1;
  float square_sum[OWN_TOKENS];
  #pragma unroll
  for (int k = 0; k < OWN_TOKENS; ++k) {
    square_sum[k] = 0.0f;
    if (HAS_FIRST) {
      #pragma unroll
      for (int q = 0; q < QUADS; ++q) {
        const float a = static_cast<float>(loaded[k][q % COPIES].x);
        const float b = static_cast<float>(loaded[k][q % COPIES].y);
        const float c = static_cast<float>(loaded[k][q % COPIES].z);
        const float d = static_cast<float>(loaded[k][q % COPIES].w);
        if (q * THREADS + thread_index < IN / 4) square_sum[k] += a * a + b * b + c * c + d * d;
      }
    }
  }
  for (int i = (HAS_FIRST ? QUADS * THREADS : 0) + set_thread; i < IN / 4; i += SET_THREADS) {
    #pragma unroll
    for (int k = 0; k < OWN_TOKENS; ++k) {
      const int t = k * SETS + set < TOKENS ? k * SETS + set : TOKENS - 1;
      const vec<InT, 4> quad = x_quads[t * (IN / 4) + i];
      const float a = static_cast<float>(quad.x);
      const float b = static_cast<float>(quad.y);
      const float c = static_cast<float>(quad.z);
      const float d = static_cast<float>(quad.w);
      square_sum[k] += a * a + b * b + c * c + d * d;
    }
  }
  #pragma unroll
  for (int k = 0; k < OWN_TOKENS; ++k) {
    const int t = k * SETS + set;
    const float sum = simd_sum(square_sum[k]);
    if (lane == 0 && t < TOKENS) shared_squares[t * SIMD_GROUPS + simd_group] = sum;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    float sum = 0.0f;
    for (int s = 0; s < SIMD_GROUPS; ++s) sum += shared_squares[t * SIMD_GROUPS + s];
    rms_scale[t] = precise::rsqrt(sum / static_cast<float>(IN) + as_type<float>(EPS));
  }
}

// The norm's weights are loaded last, to save registers, but before the first store.
vec<NormT, 4> norm_loaded[COPIES];
if (NORM) {
  #pragma unroll
  for (int k = 0; k < COPIES; ++k) {
    const int j = k * THREADS + thread_index;
    const int i = (round * SET_THREADS + j / SLAB) * QUADS + slab * SLAB + j % SLAB;
    norm_loaded[k] = norm_quads[i < IN / 4 ? i : IN / 4 - 1];
  }
}
// Other threads may still be reading the slab before.
if (round > 0 || slab > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
for (int k = 0; k < COPIES; ++k) {
  const int j = k * THREADS + thread_index;
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) {
    vec<InT, 4> quad = loaded[t][k];
    if (NORM) {
      const vec<NormT, 4> factor = norm_loaded[k];
      const float a = static_cast<float>(quad.x) * rms_scale[t] * static_cast<float>(factor.x);
      const float b = static_cast<float>(quad.y) * rms_scale[t] * static_cast<float>(factor.y);
      const float c = static_cast<float>(quad.z) * rms_scale[t] * static_cast<float>(factor.z);
      const float d = static_cast<float>(quad.w) * rms_scale[t] * static_cast<float>(factor.w);
      quad.x = static_cast<InT>(a);
      quad.y = static_cast<InT>(b);
      quad.z = static_cast<InT>(c);
      quad.w = static_cast<InT>(d);
    }
    staged[(t * SLAB + j % SLAB) * STRIDE + j / SLAB] = quad;
  }
}
threadgroup_barrier(mem_flags::mem_threadgroup);
