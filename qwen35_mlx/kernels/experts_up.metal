// RMS norm, then the gate and up projections of each token's experts and of the shared one, and
// SwiGLU.
//
// Launch: N * ceil((K I + IS) / OUTPUTS) threadgroups of SIMD_GROUPS SIMD groups, OUTPUTS outputs
// of one token and expert each: OUTPUTS divides I and IS. Neighbours have the same outputs of all
// tokens: they read the shared expert, and experts that tokens have in common, at about the same
// time, so that a small cache holds them.
// A thread reads the same chunks of all rows, so that all its loads are in flight at once.
//
// x           [N, H]
// norm_weight [H], of the RMS norm of x; EPS: bits of its epsilon
// experts     [N, K] uint32
// w           [E, 2 I, H], gate rows first; scales, biases [E, 2 I, H / ROUTED_GS]
// shared_w    [2 IS, H]; shared_scales, shared_biases [2 IS, H / SHARED_GS]
//             Both in a format of include_packed_format.metal, which is the same if ONE_FORMAT
// -> h        [N, K I + IS] float32   silu(gate) * up of each expert, then of the shared one

constexpr int IN = H;
constexpr bool NORM = true;
constexpr int ROWS = 2 * OUTPUTS;         // of w, in a threadgroup: gate and up in turn
constexpr int THREADS = 32 * SIMD_GROUPS;
constexpr int OUT = K * I + IS;
constexpr int STAGED_QUADS = (ROUTED_CHUNK > SHARED_CHUNK ? ROUTED_CHUNK : SHARED_CHUNK) / 4;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int tokens = static_cast<int>(experts_shape[0]);
const int token = threadgroup_index % tokens;
const int first_output = threadgroup_index / tokens * OUTPUTS;

threadgroup vec<InT, 4> staged[STAGED_QUADS * THREADS + 16];
threadgroup float shared_acc[ROWS * SIMD_GROUPS];
threadgroup float shared_squares[SIMD_GROUPS];

// Aligned, since allocations are and a row of x is a multiple of 32 values.
auto x_quads = reinterpret_cast<const device vec<InT, 4>*>(x) + token * (H / 4);
auto norm_quads = reinterpret_cast<const device vec<NormT, 4>*>(norm_weight);

const bool routed = first_output < K * I;
const int first_row = routed            // of the gates, in w or shared_w
    ? static_cast<int>(experts[token * K + first_output / I]) * 2 * I + first_output % I
    : first_output - K * I;
const int up_distance = routed ? I : IS;  // rows from a gate to its up

float acc[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) acc[r] = 0.0f;
float rms_scale = 1.0f;

#include "include_expert_sources.metal"
if (ONE_FORMAT || routed) {
  constexpr int MODE = ROUTED_MODE;
  constexpr int BITS = ROUTED_BITS;
  constexpr int GS = ROUTED_GS;
  constexpr int CHUNK = ROUTED_CHUNK;
#include "include_packed_format.metal"
  auto scale_row = reinterpret_cast<const device RoutedScaleT*>(scale_bytes);
  auto bias_row = reinterpret_cast<const device RoutedScaleT*>(bias_bytes);
#include "include_expert_gates_and_ups.metal"
} else {
  constexpr int MODE = SHARED_MODE;
  constexpr int BITS = SHARED_BITS;
  constexpr int GS = SHARED_GS;
  constexpr int CHUNK = SHARED_CHUNK;
#include "include_packed_format.metal"
  auto scale_row = reinterpret_cast<const device SharedScaleT*>(scale_bytes);
  auto bias_row = reinterpret_cast<const device SharedScaleT*>(bias_bytes);
#include "include_expert_gates_and_ups.metal"
}

#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const float sum = simd_sum(acc[r]);
  if (lane == 0) shared_acc[r * SIMD_GROUPS + simd_group] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_index < OUTPUTS) {
  float gate = 0.0f;
  float up = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) {
    gate += shared_acc[2 * thread_index * SIMD_GROUPS + s];
    up += shared_acc[(2 * thread_index + 1) * SIMD_GROUPS + s];
  }
  h[token * OUT + first_output + thread_index] = gate / (1.0f + precise::exp(-gate)) * up;
}
