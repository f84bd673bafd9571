// RMS norm, then the gate and up projections of each token's experts and of the shared one, and
// SwiGLU.
//
// Launch: N * ceil((K I + IS) / OUTPUTS) threadgroups of SIMD_GROUPS SIMD groups, OUTPUTS outputs
// of one token each. Neighbours have the same outputs of all tokens: they read the shared expert,
// and experts that tokens have in common, at about the same time, so that a small cache holds them.
// A thread reads the same chunks of all rows, so that all its loads are in flight at once.
//
// x           [N, H]
// norm_weight [H], of the RMS norm of x; EPS: bits of its epsilon
// experts     [N, K] uint32
// w           [E, 2 I, H BITS / 32] uint32, gate rows first; scales, biases [E, 2 I, H / GS]
// shared_w    [2 IS, H BITS / 32] uint32; shared_scales, shared_biases [2 IS, H / GS]
// -> h        [N, K I + IS] float32   silu(gate) * up of each expert, then of the shared one

#include "include_packed_format.metal"

constexpr int IN = H;
constexpr bool NORM = true;
constexpr int ROWS = 2 * OUTPUTS;         // of w, in a threadgroup: gate and up in turn
constexpr int CHUNKS = H / CHUNK;         // in a row
constexpr int THREADS = 32 * SIMD_GROUPS;
constexpr int ROUNDS = (CHUNKS + THREADS - 1) / THREADS;
constexpr int GROUPS = H / GS;
constexpr int OUT = K * I + IS;
constexpr int QUADS = CHUNK / 4;          // of x in a chunk; four values are loaded at once
constexpr int STRIDE = THREADS + 16 / QUADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int tokens = static_cast<int>(experts_shape[0]);
const int token = threadgroup_index % tokens;
const int first_output = threadgroup_index / tokens * OUTPUTS;

threadgroup vec<InT, 4> staged[QUADS * STRIDE];
threadgroup float shared_acc[ROWS * SIMD_GROUPS];
threadgroup float shared_squares[SIMD_GROUPS];

// Aligned, since allocations are and a row of x is a multiple of 32 values.
auto x_quads = reinterpret_cast<const device vec<InT, 4>*>(x) + token * (H / 4);
auto norm_quads = reinterpret_cast<const device vec<NormT, 4>*>(norm_weight);

int gate_rows[OUTPUTS];                   // in w if routed, else in shared_w
bool routed[OUTPUTS];
#pragma unroll
for (int r = 0; r < OUTPUTS; ++r) {
  const int out = first_output + r < OUT ? first_output + r : OUT - 1;
  routed[r] = out < K * I;
  gate_rows[r] = routed[r]
      ? static_cast<int>(experts[token * K + out / I]) * 2 * I + out % I
      : out - K * I;
}

float acc[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) acc[r] = 0.0f;
float rms_scale = 1.0f;
for (int round = 0; round < ROUNDS; ++round) {
  const int chunk = round * THREADS + thread_index;
  const int safe_chunk = chunk < CHUNKS ? chunk : CHUNKS - 1;
  const int group = safe_chunk * CHUNK / GS;
  uint32_t words[ROWS][CHUNK_WORDS];
  float scale[ROWS];
  float bias[ROWS];
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const bool from_routed = routed[r / 2];
    const int row = gate_rows[r / 2] + r % 2 * (from_routed ? I : IS);
    const int index = row * CHUNKS + safe_chunk;
    auto source = from_routed ? w : shared_w;
#include "include_load_chunk.metal"
    auto scale_row = from_routed ? scales : shared_scales;
    auto bias_row = from_routed ? biases : shared_biases;
    scale[r] = static_cast<float>(scale_row[row * GROUPS + group]);
    bias[r] = static_cast<float>(bias_row[row * GROUPS + group]);
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
if (thread_index < OUTPUTS && first_output + thread_index < OUT) {
  float gate = 0.0f;
  float up = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) {
    gate += shared_acc[2 * thread_index * SIMD_GROUPS + s];
    up += shared_acc[(2 * thread_index + 1) * SIMD_GROUPS + s];
  }
  h[token * OUT + first_output + thread_index] = gate / (1.0f + precise::exp(-gate)) * up;
}
