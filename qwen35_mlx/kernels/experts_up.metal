// RMS norm, then gate and up projections of each token's experts and of the shared one, and SwiGLU.
//
// A threadgroup computes ROWS values: each thread takes the same runs of all their rows, so that what
// it needs of the weights is under way before it waits for anything.
//
// x        [N, H], norm_weight [H]; EPS the bits of the norm's epsilon
// experts  [N, K] uint32
// w        [E, 2 I, H BITS / 32] uint32, gate rows first; scales, biases [E, 2 I, H / GS]
// shared_w [2 IS, ...], shared_scales, shared_biases: the same for the shared expert
// -> h     [N, K I + IS] float32: silu(gate) * up, expert by expert, then the shared one

#include "packed.metal"

constexpr int IN = H;
constexpr bool NORM = true;
constexpr int LINES = 2 * ROWS;           // rows of w: gate and up in turn
constexpr int RUNS = H / RUN;             // of a row
constexpr int THREADS = 32 * SIMDS;
constexpr int ROUNDS = (RUNS + THREADS - 1) / THREADS;
constexpr int GROUPS = H / GS;
constexpr int OUT = K * I + IS;
constexpr int BLOCKS = (OUT + ROWS - 1) / ROWS;
constexpr int QUADS = RUN / 4;            // of x in a run; four values are loaded at once
constexpr int STRIDE = THREADS + 16 / QUADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int token = place / BLOCKS;
const int first = place % BLOCKS * ROWS;

threadgroup vec<InT, 4> staged[QUADS * STRIDE];
threadgroup float partial[LINES * SIMDS];
threadgroup float squares[SIMDS];

// Aligned: allocations are, and rows are multiples of 16 bytes.
auto quads = reinterpret_cast<const device vec<InT, 4>*>(x) + token * (H / 4);
auto by_quads = reinterpret_cast<const device vec<InT, 4>*>(norm_weight);

int row_of_gate[ROWS];                    // in w, or in shared_w where `routed` is false
bool routed[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const int out = first + r < OUT ? first + r : OUT - 1;
  routed[r] = out < K * I;
  row_of_gate[r] = routed[r]
      ? static_cast<int>(experts[token * K + out / I]) * 2 * I + out % I
      : out - K * I;
}

float total[LINES];
#pragma unroll
for (int r = 0; r < LINES; ++r) total[r] = 0.0f;
float norm = 1.0f;
for (int round = 0; round < ROUNDS; ++round) {
  const int run = round * THREADS + thread_index;
  const int there = run < RUNS ? run : RUNS - 1;
  const int group = there * RUN / GS;
  uint4 words[LINES];
  float scale[LINES];
  float bias[LINES];
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int g = row_of_gate[r];
    const int u = g + (routed[r] ? I : IS);
    auto packed = reinterpret_cast<const device uint4*>(routed[r] ? w : shared_w);
    words[2 * r] = packed[g * RUNS + there];
    words[2 * r + 1] = packed[u * RUNS + there];
    auto scale_row = routed[r] ? scales : shared_scales;
    auto bias_row = routed[r] ? biases : shared_biases;
    scale[2 * r] = static_cast<float>(scale_row[g * GROUPS + group]);
    scale[2 * r + 1] = static_cast<float>(scale_row[u * GROUPS + group]);
    bias[2 * r] = static_cast<float>(bias_row[g * GROUPS + group]);
    bias[2 * r + 1] = static_cast<float>(bias_row[u * GROUPS + group]);
  }

#include "normed_runs.metal"

  if (run < RUNS) {
    const float weighted = 1.0f;
#include "staged_run.metal"
#include "run_dot.metal"
  }
}

#pragma unroll
for (int r = 0; r < LINES; ++r) {
  const float sum = simd_sum(total[r]);
  if (lane == 0) partial[r * SIMDS + simd] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_index < ROWS && first + thread_index < OUT) {
  float g = 0.0f;
  float u = 0.0f;
  for (int s = 0; s < SIMDS; ++s) {
    g += partial[2 * thread_index * SIMDS + s];
    u += partial[(2 * thread_index + 1) * SIMDS + s];
  }
  h[token * OUT + first + thread_index] = g / (1.0f + precise::exp(-g)) * u;
}
