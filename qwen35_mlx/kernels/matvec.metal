// One token times a packed matrix, with the RMS norm before it and the residual sum after it.
//
// Launch: ceil(OUT / OUTPUTS) threadgroups of SIMD_GROUPS SIMD groups, OUTPUTS outputs each. A
// thread reads the same chunks of all rows, so that all its loads are in flight at once, and x is
// read and normed once for all rows.
//
// x            [IN]
// w            [HALVES OUT, IN BITS / 32] uint32; scales, biases [HALVES OUT, IN / GS]
// norm_weight  [IN], of the RMS norm of x; not read unless NORM. EPS: bits of its epsilon
// residual     [OUT]; not read unless RESIDUAL
// -> y         [OUT]   w x, or silu(g) * u if GLU: g the first half of w x, u the second. Rounded
//                      before the residual is added

#include "include_packed_format.metal"

constexpr int THREADS = 32 * SIMD_GROUPS;
constexpr int HALVES = GLU ? 2 : 1;
constexpr int ROWS = HALVES * OUTPUTS;    // of w, in a threadgroup: gates, then ups
constexpr int CHUNKS = IN / CHUNK;        // in a row
constexpr int ROUNDS = (CHUNKS + THREADS - 1) / THREADS;
constexpr int QUADS = CHUNK / 4;          // of x in a chunk; four values are loaded at once
constexpr int GROUPS = IN / GS;
constexpr int STRIDE = THREADS + 16 / QUADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int first_output = static_cast<int>(threadgroup_position_in_grid.x) * OUTPUTS;

threadgroup vec<InT, 4> staged[QUADS * STRIDE];
threadgroup float shared_squares[SIMD_GROUPS];
threadgroup float shared_acc[ROWS * SIMD_GROUPS];

// Aligned, since allocations are and a row of w is a multiple of 16 bytes.
auto packed = reinterpret_cast<const device uint4*>(w);
auto x_quads = reinterpret_cast<const device vec<InT, 4>*>(x);
auto norm_quads = reinterpret_cast<const device vec<NormT, 4>*>(norm_weight);

int row[ROWS];
float acc[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const int out = first_output + r % OUTPUTS;
  row[r] = r / OUTPUTS * OUT + (out < OUT ? out : OUT - 1);
  acc[r] = 0.0f;
}
// The residual is loaded early, to hide its latency.
const int output = first_output + thread_index;
const bool has_output = thread_index < OUTPUTS && output < OUT;
float residual_value = 0.0f;
if (RESIDUAL && has_output) residual_value = static_cast<float>(residual[output]);
float rms_scale = 1.0f;

for (int round = 0; round < ROUNDS; ++round) {
  const int chunk = round * THREADS + thread_index;
  const int safe_chunk = chunk < CHUNKS ? chunk : CHUNKS - 1;
  uint4 words[ROWS];
  float scale[ROWS];
  float bias[ROWS];
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int group = row[r] * GROUPS + safe_chunk * CHUNK / GS;
    words[r] = packed[row[r] * CHUNKS + safe_chunk];
    scale[r] = static_cast<float>(scales[group]);
    bias[r] = static_cast<float>(biases[group]);
  }

#include "include_stage_normed_x.metal"

  if (chunk < CHUNKS) {
    const float dot_weight = 1.0f;
#include "include_load_staged_x.metal"
#include "include_packed_dot.metal"
  }
}

#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const float sum = simd_sum(acc[r]);
  if (lane == 0) shared_acc[r * SIMD_GROUPS + simd_group] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (has_output) {
  float sum = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) sum += shared_acc[thread_index * SIMD_GROUPS + s];
  if (GLU) {
    float up = 0.0f;
    for (int s = 0; s < SIMD_GROUPS; ++s)
      up += shared_acc[(ROWS - OUTPUTS + thread_index) * SIMD_GROUPS + s];
    sum = sum / (1.0f + precise::exp(-sum)) * up;
  }
  const InT rounded = static_cast<InT>(sum);
  y[output] = RESIDUAL ? static_cast<InT>(static_cast<float>(rounded) + residual_value) : rounded;
}
