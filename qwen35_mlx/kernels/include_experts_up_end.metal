// Included by experts_up.metal and its relatives: from acc[ROWS] to h.

#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const float sum = simd_sum(acc[r]);
  if (lane == 0) shared_acc[r * SIMD_GROUPS + simd_group] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_index < OUTPUTS) {
  float gate = 0.0f;
  float up = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) {
    gate += shared_acc[2 * thread_index * SIMD_GROUPS + s];
    up += shared_acc[(2 * thread_index + 1) * SIMD_GROUPS + s];
  }
  h[token * OUT + first_output + thread_index] = gate / (1.0f + precise::exp(-gate)) * up;
}
