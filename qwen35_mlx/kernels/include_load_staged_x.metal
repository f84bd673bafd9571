// Included by other bodies: this thread's chunk of x, as include_stage_normed_x.metal staged it, in
// values[CHUNK].

float values[CHUNK];
#pragma unroll
for (int q = 0; q < QUADS; ++q) {
  const vec<InT, 4> quad = staged[q * STRIDE + thread_index];
  values[4 * q] = static_cast<float>(quad.x);
  values[4 * q + 1] = static_cast<float>(quad.y);
  values[4 * q + 2] = static_cast<float>(quad.z);
  values[4 * q + 3] = static_cast<float>(quad.w);
}
