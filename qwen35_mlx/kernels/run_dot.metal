// A piece of other bodies: one run of x, in value[RUN], times the same run of LINES rows, of which
// words, scale and bias are there; weighted, onto total. It spoils value.

// A value of w stays where it lies in its half of a word, so many powers of two too large: x is made
// smaller by as much, once for all rows.
float sum_of_run = 0.0f;
#pragma unroll
for (int i = 0; i < RUN; ++i) {
  sum_of_run += value[i];
  value[i] *= 1.0f / static_cast<float>(1u << (i % HALF * BITS));
}
#pragma unroll
for (int r = 0; r < LINES; ++r) {
  const uint32_t word[4] = {words[r].x, words[r].y, words[r].z, words[r].w};
  float dot = 0.0f;
  #pragma unroll
  for (int i = 0; i < RUN; ++i) {
    const uint32_t side = i % PER < HALF ? word[i / PER] : word[i / PER] >> 16;
    const uint32_t own_bits = side & (MASK << (i % HALF * BITS));
    dot += value[i] * (as_type<float>(MAGIC | own_bits) - as_type<float>(MAGIC));
  }
  total[r] += weighted * (scale[r] * dot + bias[r] * sum_of_run);
}
