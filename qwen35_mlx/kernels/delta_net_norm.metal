// RMS norm of each value head, times silu(z): the end of a Gated DeltaNet layer whose heads are
// split over threadgroups. One SIMD group to a head of a token.
//
// raw        [B, L, NV, DV] float32
// projected  [B, L, WIDTH], z from column FIRST on
// norm       [DV] float32; EPS the bits of its epsilon
// -> y [B, L, NV DV]

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x) * SIMDS
    + static_cast<int>(simdgroup_index_in_threadgroup);
const int token = place / NV;
const int head = place % NV;
auto own = raw + static_cast<size_t>(place) * DV;
auto said = y + static_cast<size_t>(place) * DV;
auto z = projected + static_cast<size_t>(token) * WIDTH + FIRST + head * DV;

if (token < static_cast<int>(raw_shape[0]) * static_cast<int>(raw_shape[1])) {
  float squares = 0.0f;
  for (int i = lane; i < DV; i += 32) {
    const float x = static_cast<float>(own[i]);
    squares += x * x;
  }
  const float mean = simd_sum(squares) / static_cast<float>(DV);
  const float scale = precise::rsqrt(mean + as_type<float>(EPS));
  for (int i = lane; i < DV; i += 32) {
    const float gate = static_cast<float>(z[i]);
    const float gated = gate / (1.0f + precise::exp(-gate)) * static_cast<float>(norm[i]);
    said[i] = static_cast<OutT>(static_cast<float>(own[i]) * scale * gated);
  }
}
