// Down projections of each token's experts and of the shared one, weighted and summed.
//
// Each SIMD group computes ROWS outputs, over all experts. Packing as in experts_up.metal.
//
// h        [N, K I + IS] float32
// experts  [N, K] uint32; weights [N, K + 1] float32, the last one the shared expert's
// w        [E, H, I BITS / 32] uint32; scales, biases [E, H, I / GS]
// shared_w [H, IS BITS / 32], shared_scales, shared_biases
// residual [N, H]
// -> y     [N, H]   residual + the sum, rounded before

constexpr int PER = 32 / BITS;
constexpr int OUT = K * I + IS;
constexpr int BLOCKS = (H + ROWS - 1) / ROWS;
constexpr uint32_t MASK = (1u << BITS) - 1u;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int block = static_cast<int>(threadgroup_position_in_grid.x) * SIMDS
    + static_cast<int>(simdgroup_index_in_threadgroup);
const int token = block / BLOCKS;
const int first = block % BLOCKS * ROWS;

if (token < N) {
  float total[ROWS];
  for (int r = 0; r < ROWS; ++r) total[r] = 0.0f;
  for (int slot = 0; slot <= K; ++slot) {
    const bool routed = slot < K;
    const int words = (routed ? I : IS) / PER;
    const int groups = (routed ? I : IS) / GS;
    const int above = routed ? static_cast<int>(experts[token * K + slot]) * H : 0;
    const float weight = static_cast<float>(weights[token * (K + 1) + slot]);
    for (int word = lane; word < words; word += 32) {
      const int group = word * PER / GS;
      float sum = 0.0f;
      float value[PER];
      for (int p = 0; p < PER; ++p) {
        value[p] = static_cast<float>(h[token * OUT + slot * I + word * PER + p]) * weight;
        sum += value[p];
      }
      for (int r = 0; r < ROWS; ++r) {
        const int row = above + (first + r < H ? first + r : H - 1);
        const uint32_t packed = routed ? w[row * words + word] : shared_w[row * words + word];
        float dot = 0.0f;
        for (int p = 0; p < PER; ++p)
          dot += value[p] * static_cast<float>((packed >> (p * BITS)) & MASK);
        const int at = row * groups + group;
        const float scale = static_cast<float>(routed ? scales[at] : shared_scales[at]);
        const float bias = static_cast<float>(routed ? biases[at] : shared_biases[at]);
        total[r] += scale * dot + bias * sum;
      }
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    const float sum = simd_sum(total[r]);
    const int at = token * H + first + r;
    if (lane == 0 && first + r < H)
      y[at] = static_cast<InT>(
          static_cast<float>(static_cast<InT>(sum)) + static_cast<float>(residual[at]));
  }
}
