// A piece of other bodies: the run that is this thread's, as normed_runs.metal staged it, in value[RUN].

float value[RUN];
#pragma unroll
for (int q = 0; q < QUADS; ++q) {
  const vec<InT, 4> part = staged[q * STRIDE + thread_index];
  value[4 * q] = static_cast<float>(part.x);
  value[4 * q + 1] = static_cast<float>(part.y);
  value[4 * q + 2] = static_cast<float>(part.z);
  value[4 * q + 3] = static_cast<float>(part.w);
}
