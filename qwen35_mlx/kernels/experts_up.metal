// Gate and up projections of each token's experts and of the shared one, and SwiGLU.
//
// Each SIMD group computes ROWS values: its lanes walk along the packed rows together, 32 words at
// a time, and add up at the end. Weights are affine: value = scale * q + bias, so that a word's
// share of a dot product is scale * (x . q) + bias * sum(x).
//
// x        [N, H]
// experts  [N, K] uint32
// w        [E, 2 I, H BITS / 32] uint32, gate rows first; scales, biases [E, 2 I, H / GS]
// shared_w [2 IS, ...], shared_scales, shared_biases: the same for the shared expert
// -> h     [N, K I + IS] float32: silu(gate) * up, expert by expert, then the shared one

constexpr int PER = 32 / BITS;
constexpr int WORDS = H / PER;
constexpr int GROUPS = H / GS;
constexpr int OUT = K * I + IS;
constexpr int BLOCKS = (OUT + ROWS - 1) / ROWS;
constexpr uint32_t MASK = (1u << BITS) - 1u;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int block = static_cast<int>(threadgroup_position_in_grid.x) * SIMDS
    + static_cast<int>(simdgroup_index_in_threadgroup);
const int token = block / BLOCKS;
const int first = block % BLOCKS * ROWS;

if (token < N) {
  float gate[ROWS];
  float up[ROWS];
  int row_of_gate[ROWS];                  // in w, or in shared_w where `routed` is false
  bool routed[ROWS];
  for (int r = 0; r < ROWS; ++r) {
    gate[r] = 0.0f;
    up[r] = 0.0f;
    const int out = first + r < OUT ? first + r : OUT - 1;
    routed[r] = out < K * I;
    row_of_gate[r] = routed[r]
        ? static_cast<int>(experts[token * K + out / I]) * 2 * I + out % I
        : out - K * I;
  }
  for (int word = lane; word < WORDS; word += 32) {
    const int group = word * PER / GS;
    float sum = 0.0f;
    float value[PER];
    for (int p = 0; p < PER; ++p) {
      value[p] = static_cast<float>(x[token * H + word * PER + p]);
      sum += value[p];
    }
    for (int r = 0; r < ROWS; ++r) {
      const int g = row_of_gate[r];
      const int u = g + (routed[r] ? I : IS);
      const uint32_t packed_gate = routed[r] ? w[g * WORDS + word] : shared_w[g * WORDS + word];
      const uint32_t packed_up = routed[r] ? w[u * WORDS + word] : shared_w[u * WORDS + word];
      float dot_gate = 0.0f;
      float dot_up = 0.0f;
      for (int p = 0; p < PER; ++p) {
        dot_gate += value[p] * static_cast<float>((packed_gate >> (p * BITS)) & MASK);
        dot_up += value[p] * static_cast<float>((packed_up >> (p * BITS)) & MASK);
      }
      const int gg = g * GROUPS + group;
      const int ug = u * GROUPS + group;
      const float scale_gate = static_cast<float>(routed[r] ? scales[gg] : shared_scales[gg]);
      const float scale_up = static_cast<float>(routed[r] ? scales[ug] : shared_scales[ug]);
      const float bias_gate = static_cast<float>(routed[r] ? biases[gg] : shared_biases[gg]);
      const float bias_up = static_cast<float>(routed[r] ? biases[ug] : shared_biases[ug]);
      gate[r] += scale_gate * dot_gate + bias_gate * sum;
      up[r] += scale_up * dot_up + bias_up * sum;
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    const float g = simd_sum(gate[r]);
    const float u = simd_sum(up[r]);
    if (lane == 0 && first + r < OUT) h[token * OUT + first + r] = g / (1.0f + precise::exp(-g)) * u;
  }
}
