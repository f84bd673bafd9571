// The down projections of each token's experts and of the shared one, weighted, summed, and added
// to the residual.
//
// Launch: N * ceil(H / OUTPUTS) threadgroups of SIMD_GROUPS SIMD groups, OUTPUTS outputs of one
// token each; neighbours have the same outputs of all tokens, as in experts_up.metal. The chunks of
// a row in all experts, one expert after the other, are dealt out to the threads.
//
// h        [N, K I + IS] float32, from experts_up.metal
// experts  [N, K] uint32
// weights  [N, K + 1] float32, the last one the shared expert's
// w        [E, H, I]; scales, biases [E, H, I / ROUTED_GS]
// shared_w [H, IS]; shared_scales, shared_biases [H, IS / SHARED_GS]
//          Both in a format of include_packed_format.metal, which is the same if ONE_FORMAT
// residual [N, H]
// -> y     [N, H]   residual + the sum, which is rounded before

constexpr int ROWS = OUTPUTS;             // of w, in a threadgroup
constexpr int CHUNKS = I / ROUTED_CHUNK;  // in a routed expert's row
constexpr int TOTAL_CHUNKS = K * CHUNKS + IS / SHARED_CHUNK;
constexpr int THREADS = 32 * SIMD_GROUPS;
constexpr int OUT = K * I + IS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int tokens = static_cast<int>(experts_shape[0]);
const int token = threadgroup_index % tokens;
const int first_output = threadgroup_index / tokens * OUTPUTS;

threadgroup float shared_acc[OUTPUTS * SIMD_GROUPS];

// The residual is loaded early, to hide its latency.
const bool has_output = thread_index < OUTPUTS && first_output + thread_index < H;
const int output_index = token * H + first_output + thread_index;
const float residual_value = has_output ? static_cast<float>(residual[output_index]) : 0.0f;

float acc[OUTPUTS];
#pragma unroll
for (int r = 0; r < OUTPUTS; ++r) acc[r] = 0.0f;

for (int item = thread_index; item < TOTAL_CHUNKS; item += THREADS) {
  const int slot = item < K * CHUNKS ? item / CHUNKS : K;
  const int first_item = slot * CHUNKS;
  const bool routed = slot < K;
  const int first_row = routed ? static_cast<int>(experts[token * K + slot]) * H : 0;
#include "include_expert_sources.metal"
  if (ONE_FORMAT || routed) {
    constexpr int MODE = ROUTED_MODE;
    constexpr int BITS = ROUTED_BITS;
    constexpr int GS = ROUTED_GS;
    constexpr int CHUNK = ROUTED_CHUNK;
#include "include_packed_format.metal"
    auto scale_row = reinterpret_cast<const device RoutedScaleT*>(scale_bytes);
    auto bias_row = reinterpret_cast<const device RoutedScaleT*>(bias_bytes);
#include "include_expert_downs.metal"
  } else {
    constexpr int MODE = SHARED_MODE;
    constexpr int BITS = SHARED_BITS;
    constexpr int GS = SHARED_GS;
    constexpr int CHUNK = SHARED_CHUNK;
#include "include_packed_format.metal"
    auto scale_row = reinterpret_cast<const device SharedScaleT*>(scale_bytes);
    auto bias_row = reinterpret_cast<const device SharedScaleT*>(bias_bytes);
#include "include_expert_downs.metal"
  }
}

#pragma unroll
for (int r = 0; r < OUTPUTS; ++r) {
  const float sum = simd_sum(acc[r]);
  if (lane == 0) shared_acc[r * SIMD_GROUPS + simd_group] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (has_output) {
  float sum = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) sum += shared_acc[thread_index * SIMD_GROUPS + s];
  y[output_index] = static_cast<InT>(static_cast<float>(static_cast<InT>(sum)) + residual_value);
}
