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
// w        [E, H, I BITS / 32] uint32; scales, biases [E, H, I / GS]
// shared_w [H, IS BITS / 32] uint32; shared_scales, shared_biases [H, IS / GS]
// residual [N, H]
// -> y     [N, H]   residual + the sum, which is rounded before

#include "include_packed_format.metal"

constexpr int ROWS = OUTPUTS;             // of w, in a threadgroup
constexpr int CHUNKS = I / CHUNK;         // in a routed expert's row
constexpr int SHARED_CHUNKS = IS / CHUNK;
constexpr int TOTAL_CHUNKS = K * CHUNKS + SHARED_CHUNKS;
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
  const bool routed = slot < K;
  const int chunk = item - slot * CHUNKS;
  const int row_chunks = routed ? CHUNKS : SHARED_CHUNKS;
  const int row_groups = row_chunks * CHUNK / GS;
  const int first_row = routed ? static_cast<int>(experts[token * K + slot]) * H : 0;
  auto source = routed ? w : shared_w;
  auto scale_row = routed ? scales : shared_scales;
  auto bias_row = routed ? biases : shared_biases;
  auto h_quads = reinterpret_cast<const device float4*>(h + token * OUT + slot * I + chunk * CHUNK);

  uint32_t words[OUTPUTS][CHUNK_WORDS];
  float scale[OUTPUTS];
  float bias[OUTPUTS];
  #pragma unroll
  for (int r = 0; r < OUTPUTS; ++r) {
    const int row = first_row + (first_output + r < H ? first_output + r : H - 1);
    const int index = row * row_chunks + chunk;
#include "include_load_chunk.metal"
    scale[r] = static_cast<float>(scale_row[row * row_groups + chunk * CHUNK / GS]);
    bias[r] = static_cast<float>(bias_row[row * row_groups + chunk * CHUNK / GS]);
  }
  const float dot_weight = static_cast<float>(weights[token * (K + 1) + slot]);
  float values[CHUNK];
  #pragma unroll
  for (int q = 0; q < CHUNK / 4; ++q) {
    const float4 quad = h_quads[q];
    values[4 * q] = quad.x;
    values[4 * q + 1] = quad.y;
    values[4 * q + 2] = quad.z;
    values[4 * q + 3] = quad.w;
  }
#include "include_packed_dot.metal"
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
