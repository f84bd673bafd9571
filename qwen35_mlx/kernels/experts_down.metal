// Down projections of each token's experts and of the shared one, weighted and summed.
//
// A threadgroup computes ROWS outputs, over all experts: the runs of a row in all of them, one after
// the other, are dealt out to its threads.
//
// h        [N, K I + IS] float32
// experts  [N, K] uint32; weights [N, K + 1] float32, the last one the shared expert's
// w        [E, H, I BITS / 32] uint32; scales, biases [E, H, I / GS]
// shared_w [H, IS BITS / 32], shared_scales, shared_biases
// residual [N, H]
// -> y     [N, H]   residual + the sum, rounded before

#include "packed.metal"

constexpr int LINES = ROWS;
constexpr int RUNS = I / RUN;             // of a routed expert's row
constexpr int SHARED_RUNS = IS / RUN;
constexpr int ALL = K * RUNS + SHARED_RUNS;
constexpr int THREADS = 32 * SIMDS;
constexpr int OUT = K * I + IS;
constexpr int BLOCKS = (H + ROWS - 1) / ROWS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int token = place / BLOCKS;
const int first = place % BLOCKS * ROWS;

threadgroup float partial[ROWS * SIMDS];

// What the last step needs, asked for now too.
const bool writes = thread_index < ROWS && first + thread_index < H;
const int own = token * H + first + thread_index;
const float onto = writes ? static_cast<float>(residual[own]) : 0.0f;

float total[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) total[r] = 0.0f;

for (int at = thread_index; at < ALL; at += THREADS) {
  const int slot = at < K * RUNS ? at / RUNS : K;
  const bool routed = slot < K;
  const int run = at - slot * RUNS;
  const int runs = routed ? RUNS : SHARED_RUNS;
  const int groups = runs * RUN / GS;
  const int above = routed ? static_cast<int>(experts[token * K + slot]) * H : 0;
  auto packed = reinterpret_cast<const device uint4*>(routed ? w : shared_w);
  auto scale_row = routed ? scales : shared_scales;
  auto bias_row = routed ? biases : shared_biases;
  auto values = reinterpret_cast<const device float4*>(h + token * OUT + slot * I + run * RUN);

  uint4 words[ROWS];
  float scale[ROWS];
  float bias[ROWS];
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int row = above + (first + r < H ? first + r : H - 1);
    words[r] = packed[row * runs + run];
    scale[r] = static_cast<float>(scale_row[row * groups + run * RUN / GS]);
    bias[r] = static_cast<float>(bias_row[row * groups + run * RUN / GS]);
  }
  const float weighted = static_cast<float>(weights[token * (K + 1) + slot]);
  float value[RUN];
  #pragma unroll
  for (int q = 0; q < RUN / 4; ++q) {
    const float4 four = values[q];
    value[4 * q] = four.x;
    value[4 * q + 1] = four.y;
    value[4 * q + 2] = four.z;
    value[4 * q + 3] = four.w;
  }
#include "run_dot.metal"
}

#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const float sum = simd_sum(total[r]);
  if (lane == 0) partial[r * SIMDS + simd] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (writes) {
  float sum = 0.0f;
  for (int s = 0; s < SIMDS; ++s) sum += partial[thread_index * SIMDS + s];
  y[own] = static_cast<InT>(static_cast<float>(static_cast<InT>(sum)) + onto);
}
