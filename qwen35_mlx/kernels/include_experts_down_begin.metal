// Included by experts_down.metal and experts_down_mixed.metal: all before the rows of w.

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
