// Included by matvec.metal: sums acc[RESULTS] over the lanes of each SIMD group into shared_acc.
//
// Two lanes add, lanes at distance 16 first, as in a butterfly of each result, but every lane adds
// only half of the results and leaves the others to its partner: half as many shuffles each time.
// The sums are those of the butterfly to the bit, however many results there are. Overwrites acc.

#pragma unroll
for (int step = 0; step < 5; ++step) {
  const int count = (RESULTS + (1 << step) - 1) >> step;
  const int half_count = (count + 1) / 2;
  const bool upper = (lane & (16 >> step)) != 0;
  #pragma unroll
  for (int i = 0; i < (RESULTS + 1) / 2; ++i) {  // a constant, or compilers do not unroll it
    if (i + half_count < count) {
      const float low = acc[i];
      const float high = acc[i + half_count];
      acc[i] = (upper ? high : low)
          + simd_shuffle_xor(upper ? low : high, static_cast<ushort>(16 >> step));
    } else if (i < half_count) {
      acc[i] += simd_shuffle_xor(acc[i], static_cast<ushort>(16 >> step));
    }
  }
}
#pragma unroll
for (int i = 0; i < (RESULTS + 31) / 32; ++i) {
  int result = i;
  bool is_copy = false;  // of the partner's, where there was no other half
  #pragma unroll
  for (int step = 4; step >= 0; --step) {
    const int count = (RESULTS + (1 << step) - 1) >> step;
    if ((lane & (16 >> step)) != 0) result += (count + 1) / 2;
    is_copy = is_copy || result >= count;
  }
  if (!is_copy) shared_acc[(set * RESULTS + result) * SIMD_GROUPS + simd_group] = acc[i];
}
