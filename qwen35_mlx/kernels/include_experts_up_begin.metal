// Included by experts_up.metal and its relatives: all before the choice of an expert.

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
const int tokens = static_cast<int>(x_shape[0]);
const int token = threadgroup_index % tokens;
const int first_output = threadgroup_index / tokens * OUTPUTS;

threadgroup vec<InT, 4> staged[STAGED_QUADS * THREADS + 16];
threadgroup float shared_acc[ROWS * SIMD_GROUPS];
threadgroup float shared_squares[SIMD_GROUPS];

// Aligned, since allocations are and a row of x is a multiple of 32 values.
auto x_quads = reinterpret_cast<const device vec<InT, 4>*>(x) + token * (H / 4);
auto norm_quads = reinterpret_cast<const device vec<NormT, 4>*>(norm_weight);

const bool routed = first_output < K * I;
