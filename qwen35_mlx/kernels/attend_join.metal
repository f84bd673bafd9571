// Attention of one token, from its parts (attend_parts.metal), times the sigmoid of its gate. One
// threadgroup to a head.
//
// parts [B, H, SPLITS, D], stats [B, H, SPLITS, 2] float32
// gate  [B, 1, H, D], with gaps between heads
// -> y  [B, 1, H D], rounded before the gate and after

constexpr int THREADS = 32 * SIMDS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int head = place % H;
const int batch = place / H;
auto own = parts + static_cast<size_t>(place) * SPLITS * D;
auto about = stats + place * SPLITS * 2;
auto gates = gate + batch * gate_strides[0] + head * gate_strides[2];

float highest = -INFINITY;
for (int s = 0; s < SPLITS; ++s) {
  const float other = static_cast<float>(about[2 * s]);
  highest = other > highest ? other : highest;
}
float weights = 0.0f;
for (int s = 0; s < SPLITS; ++s)
  weights += static_cast<float>(about[2 * s + 1]) * precise::exp(static_cast<float>(about[2 * s]) - highest);
for (int i = thread_index; i < D; i += THREADS) {
  const float opened = static_cast<float>(gates[i]);
  float value = 0.0f;
  for (int s = 0; s < SPLITS; ++s)
    value += static_cast<float>(own[s * D + i]) * precise::exp(static_cast<float>(about[2 * s]) - highest);
  const InT attended = static_cast<InT>(value / weights);
  const InT share = static_cast<InT>(1.0f / (1.0f + precise::exp(-opened)));
  y[place * D + i] = static_cast<InT>(static_cast<float>(attended) * static_cast<float>(share));
}
