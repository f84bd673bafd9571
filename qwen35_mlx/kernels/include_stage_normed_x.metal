// Included by other bodies: stages one round of chunks of x [IN], normed if NORM, in threadgroup
// memory; include_load_staged_x.metal reads a thread's own chunk back. Load what a thread needs of
// w before this: a compiler moves no load up past a barrier or a store.
//
// x_quads, norm_quads: x and the norm's weights; rms_scale: 1 / rms(x), set in the first round.
// Quad q of chunk r is staged at q * STRIDE + r: neighbouring threads read neighbouring quads, and
// STRIDE, no multiple of 16, spreads the writes over all banks.

vec<InT, 4> loaded[QUADS];
#pragma unroll
for (int q = 0; q < QUADS; ++q) {
  const int i = (round * QUADS + q) * THREADS + thread_index;
  loaded[q] = x_quads[i < IN / 4 ? i : IN / 4 - 1];
}

if (NORM && round == 0) {
  float square_sum = 0.0f;
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    const float a = static_cast<float>(loaded[q].x);
    const float b = static_cast<float>(loaded[q].y);
    const float c = static_cast<float>(loaded[q].z);
    const float d = static_cast<float>(loaded[q].w);
    if (q * THREADS + thread_index < IN / 4) square_sum += a * a + b * b + c * c + d * d;
  }
  // What later rounds will load.
  for (int i = QUADS * THREADS + thread_index; i < IN / 4; i += THREADS) {
    const vec<InT, 4> quad = x_quads[i];
    const float a = static_cast<float>(quad.x);
    const float b = static_cast<float>(quad.y);
    const float c = static_cast<float>(quad.z);
    const float d = static_cast<float>(quad.w);
    square_sum += a * a + b * b + c * c + d * d;
  }
  square_sum = simd_sum(square_sum);
  if (lane == 0) shared_squares[simd_group] = square_sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  square_sum = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) square_sum += shared_squares[s];
  rms_scale = precise::rsqrt(square_sum / static_cast<float>(IN) + as_type<float>(EPS));
}

// The norm's weights are loaded last, to save registers, but before the first store.
vec<NormT, 4> norm_loaded[QUADS];
if (NORM) {
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    const int i = (round * QUADS + q) * THREADS + thread_index;
    norm_loaded[q] = norm_quads[i < IN / 4 ? i : IN / 4 - 1];
  }
}
// Other threads may still be reading the round before.
if (round > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
for (int q = 0; q < QUADS; ++q) {
  if (NORM) {
    const float a =
        static_cast<float>(loaded[q].x) * rms_scale * static_cast<float>(norm_loaded[q].x);
    const float b =
        static_cast<float>(loaded[q].y) * rms_scale * static_cast<float>(norm_loaded[q].y);
    const float c =
        static_cast<float>(loaded[q].z) * rms_scale * static_cast<float>(norm_loaded[q].z);
    const float d =
        static_cast<float>(loaded[q].w) * rms_scale * static_cast<float>(norm_loaded[q].w);
    loaded[q].x = static_cast<InT>(a);
    loaded[q].y = static_cast<InT>(b);
    loaded[q].z = static_cast<InT>(c);
    loaded[q].w = static_cast<InT>(d);
  }
  const int i = q * THREADS + thread_index;
  staged[i % QUADS * STRIDE + i / QUADS] = loaded[q];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
