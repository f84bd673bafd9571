// The last of three dispatches of a Gated DeltaNet layer over many tokens: RMS norm of each value
// head, times silu(z).
//
// Launch: one SIMD group per token and head, SIMD_GROUPS to a threadgroup.
//
// raw       [B, L, NV, DV] float32   output of the delta rule
// projected [B, L, WIDTH], z from column Z_OFFSET on
// norm      [DV] float32; EPS: bits of its epsilon
// -> y      [B, L, NV DV]

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_index = static_cast<int>(threadgroup_position_in_grid.x) * SIMD_GROUPS
    + static_cast<int>(simdgroup_index_in_threadgroup);
const int token = simd_index / NV;
const int head = simd_index % NV;
auto raw_row = raw + static_cast<size_t>(simd_index) * DV;
auto y_row = y + static_cast<size_t>(simd_index) * DV;
auto z_row = projected + static_cast<size_t>(token) * WIDTH + Z_OFFSET + head * DV;

if (token < static_cast<int>(raw_shape[0]) * static_cast<int>(raw_shape[1])) {
  float square_sum = 0.0f;
  for (int i = lane; i < DV; i += 32) {
    const float x = static_cast<float>(raw_row[i]);
    square_sum += x * x;
  }
  const float mean = simd_sum(square_sum) / static_cast<float>(DV);
  const float scale = precise::rsqrt(mean + as_type<float>(EPS));
  for (int i = lane; i < DV; i += 32) {
    const float gate = static_cast<float>(z_row[i]);
    const float gated = gate / (1.0f + precise::exp(-gate)) * static_cast<float>(norm[i]);
    y_row[i] = static_cast<OutT>(static_cast<float>(raw_row[i]) * scale * gated);
  }
}
