// A packed matrix times one token, with what stands before and after it in a layer.
//
// A threadgroup computes ROWS outputs: a thread takes the same runs of every row, so that all it needs
// of them is asked for at once, and x is read and normed once for all.
//
// x        [IN], norm_weight [IN] of an RMS norm, where NORM; EPS the bits of its epsilon
// w        [HALVES OUT, IN BITS / 32] uint32; scales, biases [HALVES OUT, IN / GS]
// residual [OUT], where RESIDUAL
// -> y     [OUT]   w x; or, where GLU, silu(g) * u, g above u in w x; rounded, then onto residual

#include "packed.metal"

constexpr int THREADS = 32 * SIMDS;
constexpr int HALVES = GLU ? 2 : 1;
constexpr int LINES = HALVES * ROWS;      // rows of w: gates, then their ups
constexpr int RUNS = IN / RUN;            // in a row
constexpr int ROUNDS = (RUNS + THREADS - 1) / THREADS;
constexpr int QUADS = RUN / 4;            // of x in a run; four values are loaded at once
constexpr int GROUPS = IN / GS;
constexpr int STRIDE = THREADS + 16 / QUADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int first = static_cast<int>(threadgroup_position_in_grid.x) * ROWS;

threadgroup vec<InT, 4> staged[QUADS * STRIDE];
threadgroup float squares[SIMDS];
threadgroup float partial[LINES * SIMDS];

// Aligned: allocations are, and a row of the matrix is a multiple of 16 bytes.
auto packed = reinterpret_cast<const device uint4*>(w);
auto quads = reinterpret_cast<const device vec<InT, 4>*>(x);
auto by_quads = reinterpret_cast<const device vec<InT, 4>*>(norm_weight);

int row[LINES];
float total[LINES];
#pragma unroll
for (int r = 0; r < LINES; ++r) {
  const int out = first + r % ROWS;
  row[r] = r / ROWS * OUT + (out < OUT ? out : OUT - 1);
  total[r] = 0.0f;
}
// What the last step needs, asked for now too.
const int own = first + thread_index;
const bool writes = thread_index < ROWS && own < OUT;
float onto = 0.0f;
if (RESIDUAL && writes) onto = static_cast<float>(residual[own]);
float norm = 1.0f;

for (int round = 0; round < ROUNDS; ++round) {
  const int run = round * THREADS + thread_index;
  const int at = run < RUNS ? run : RUNS - 1;
  uint4 words[LINES];
  float scale[LINES];
  float bias[LINES];
  #pragma unroll
  for (int r = 0; r < LINES; ++r) {
    const int group = row[r] * GROUPS + at * RUN / GS;
    words[r] = packed[row[r] * RUNS + at];
    scale[r] = static_cast<float>(scales[group]);
    bias[r] = static_cast<float>(biases[group]);
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
if (writes) {
  float sum = 0.0f;
  for (int s = 0; s < SIMDS; ++s) sum += partial[thread_index * SIMDS + s];
  if (GLU) {
    float up = 0.0f;
    for (int s = 0; s < SIMDS; ++s) up += partial[(LINES - ROWS + thread_index) * SIMDS + s];
    sum = sum / (1.0f + precise::exp(-sum)) * up;
  }
  const InT rounded = static_cast<InT>(sum);
  y[own] = RESIDUAL ? static_cast<InT>(static_cast<float>(rounded) + onto) : rounded;
}
