// A piece of other bodies: stages this round's runs of x [IN], normed where NORM; staged_run.metal
// takes a thread's own. What a thread needs of the rows it has to ask for before: past the first
// barrier and the first store a compiler moves no load up.
//
// quads, by_quads: x and the norm's weights; norm: what x is multiplied by, found in the first round.
// Quad q of run r is staged at q * STRIDE + r: neighbouring threads read neighbours, and the excess
// of STRIDE over a multiple of 16 spreads what they write over all banks.

vec<InT, 4> four[QUADS];
#pragma unroll
for (int q = 0; q < QUADS; ++q) {
  const int i = (round * QUADS + q) * THREADS + thread_index;
  four[q] = quads[i < IN / 4 ? i : IN / 4 - 1];
}

if (NORM && round == 0) {
  float sum = 0.0f;
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    const float a = static_cast<float>(four[q].x);
    const float b = static_cast<float>(four[q].y);
    const float c = static_cast<float>(four[q].z);
    const float d = static_cast<float>(four[q].w);
    if (q * THREADS + thread_index < IN / 4) sum += a * a + b * b + c * c + d * d;
  }
  // Of later rounds.
  for (int i = QUADS * THREADS + thread_index; i < IN / 4; i += THREADS) {
    const vec<InT, 4> later = quads[i];
    const float a = static_cast<float>(later.x);
    const float b = static_cast<float>(later.y);
    const float c = static_cast<float>(later.z);
    const float d = static_cast<float>(later.w);
    sum += a * a + b * b + c * c + d * d;
  }
  sum = simd_sum(sum);
  if (lane == 0) squares[simd] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sum = 0.0f;
  for (int s = 0; s < SIMDS; ++s) sum += squares[s];
  norm = precise::rsqrt(sum / static_cast<float>(IN) + as_type<float>(EPS));
}

// The norm's weights last, and yet before the first store: registers are short.
vec<InT, 4> by[QUADS];
if (NORM) {
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    const int i = (round * QUADS + q) * THREADS + thread_index;
    by[q] = by_quads[i < IN / 4 ? i : IN / 4 - 1];
  }
}
// Over what others may be reading yet.
if (round > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
for (int q = 0; q < QUADS; ++q) {
  if (NORM) {
    const float a = static_cast<float>(four[q].x) * norm * static_cast<float>(by[q].x);
    const float b = static_cast<float>(four[q].y) * norm * static_cast<float>(by[q].y);
    const float c = static_cast<float>(four[q].z) * norm * static_cast<float>(by[q].z);
    const float d = static_cast<float>(four[q].w) * norm * static_cast<float>(by[q].w);
    four[q].x = static_cast<InT>(a);
    four[q].y = static_cast<InT>(b);
    four[q].z = static_cast<InT>(c);
    four[q].w = static_cast<InT>(d);
  }
  const int i = q * THREADS + thread_index;
  staged[i % QUADS * STRIDE + i / QUADS] = four[q];
}
threadgroup_barrier(mem_flags::mem_threadgroup);
