// Included by experts_down.metal and experts_down_mixed.metal: from acc[ROWS] to y.

#pragma unroll
for (int r = 0; r < OUTPUTS; ++r) {
  const float sum = simd_sum(acc[r]);
  if (lane == 0) shared_acc[r * SIMD_GROUPS + simd_group] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (has_output) {
  float sum = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) sum += shared_acc[thread_index * SIMD_GROUPS + s];
  y[output_index] = static_cast<InT>(static_cast<float>(static_cast<InT>(sum)) + residual_value);
}
