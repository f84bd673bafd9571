// Attention of one token, from its parts (attend_parts.metal), times the sigmoid of its gate. One
// threadgroup to a head.
//
// parts [B, H, splits, D], stats [B, H, splits, 2] float32, splits <= MOST
// gate  [B, 1, H, D], with gaps between heads
// -> y  [B, 1, H D], rounded before the gate and after

constexpr int THREADS = 32 * SIMDS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int splits = static_cast<int>(parts_shape[2]);
const int head = place % H;
const int batch = place / H;
auto own = parts + static_cast<size_t>(place) * splits * D;
auto about = stats + place * splits * 2;
auto gates = gate + batch * gate_strides[0] + head * gate_strides[2];

threadgroup float share[MOST];

// Every SIMD group for itself, and the first for all.
float highest = -INFINITY;
for (int s = lane; s < splits; s += 32) {
  const float one = static_cast<float>(about[2 * s]);
  highest = one > highest ? one : highest;
}
highest = simd_max(highest);
float weights = 0.0f;
for (int s = lane; s < splits; s += 32) {
  const float kept = precise::exp(static_cast<float>(about[2 * s]) - highest);
  weights += static_cast<float>(about[2 * s + 1]) * kept;
  if (thread_index < 32) share[s] = kept;
}
weights = simd_sum(weights);
threadgroup_barrier(mem_flags::mem_threadgroup);

for (int i = thread_index; i < D; i += THREADS) {
  const float opened = static_cast<float>(gates[i]);
  float value = 0.0f;
  #pragma unroll 16
  for (int s = 0; s < splits; ++s) value += static_cast<float>(own[s * D + i]) * share[s];
  const InT attended = static_cast<InT>(value / weights);
  const InT open = static_cast<InT>(1.0f / (1.0f + precise::exp(-opened)));
  y[place * D + i] = static_cast<InT>(static_cast<float>(attended) * static_cast<float>(open));
}
