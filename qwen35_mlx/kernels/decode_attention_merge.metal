// Attention of one token, from its parts (attend_parts.metal), times the sigmoid of its gate. A
// threadgroup has 32 columns of a head: a lane for each, and the parts dealt out to its SIMD groups.
//
// parts [B, H, splits, D], stats [B, H, splits, 2] float32
// gate  [B, 1, H, D], with gaps between heads
// -> y  [B, 1, H D], rounded before the gate and after

constexpr int BLOCKS = (D + 31) / 32;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int column = place % BLOCKS * 32 + lane;
const int row = place / BLOCKS;
const int head = row % H;
const int batch = row / H;
const int splits = static_cast<int>(parts_shape[2]);
// Lanes without a column read the first one's.
auto own = parts + static_cast<size_t>(row) * splits * D + (column < D ? column : 0);
auto about = stats + row * splits * 2;

threadgroup float values[SIMDS * 32];
threadgroup float weights[SIMDS];

// Every SIMD group for itself.
float highest = -INFINITY;
for (int s = lane; s < splits; s += 32) {
  const float one = static_cast<float>(about[2 * s]);
  highest = one > highest ? one : highest;
}
highest = simd_max(highest);

float value = 0.0f;
float weight = 0.0f;
for (int s = simd; s < splits; s += SIMDS) {
  const float kept = precise::exp(static_cast<float>(about[2 * s]) - highest);
  weight += static_cast<float>(about[2 * s + 1]) * kept;
  value += static_cast<float>(own[s * D]) * kept;
}
values[simd * 32 + lane] = value;
if (lane == 0) weights[simd] = weight;
threadgroup_barrier(mem_flags::mem_threadgroup);

if (simd == 0 && column < D) {
  const float opened =
      static_cast<float>(gate[batch * gate_strides[0] + head * gate_strides[2] + column]);
  value = 0.0f;
  weight = 0.0f;
  for (int s = 0; s < SIMDS; ++s) {
    value += values[s * 32 + lane];
    weight += weights[s];
  }
  const InT attended = static_cast<InT>(value / weight);
  const InT open = static_cast<InT>(1.0f / (1.0f + precise::exp(-opened)));
  y[row * D + column] = static_cast<InT>(static_cast<float>(attended) * static_cast<float>(open));
}
