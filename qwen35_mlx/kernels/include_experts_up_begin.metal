// Included by experts_up.metal and experts_up_mixed.metal: all before the rows of w.

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
