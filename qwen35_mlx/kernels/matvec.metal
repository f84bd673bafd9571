// A few rows of x times a packed matrix, with the RMS norm before it and the residual sum after it.
//
// Launch: ceil(OUT / (SETS OUTPUTS)) threadgroups of SETS sets of SIMD_GROUPS SIMD groups, OUTPUTS
// outputs each set. A thread reads the same chunks of all its rows of w, so that all its loads are
// in flight at once; each weight is read and unpacked once for all rows of x. The sets share x,
// which is read and normed once for all of them.
//
// Which thread adds what in which order does not depend on TOKENS, SETS, OUTPUTS, SLAB or TILE: a
// row of y is the same to the bit, whatever rows are computed beside it.
//
// x            [TOKENS, IN]
// w            [HALVES OUT, IN], in the format of include_packed_format.metal
// scales       [HALVES OUT, IN / GS], not read where there are no groups; biases, affine mode only
// norm_weight  [IN], of the RMS norm of x; not read unless NORM. EPS: bits of its epsilon
// residual     [TOKENS, OUT]; not read unless RESIDUAL
// -> y         [TOKENS, OUT]   w x, or silu(g) * u if GLU: g the first half of w x, u the second.
//                              Rounded before the residual is added
//
// SLAB: quads of each chunk of x that are staged in threadgroup memory at once, for all rows of x;
// a multiple of SETS, and a divisor of QUADS.

#include "include_packed_format.metal"

constexpr int SET_THREADS = 32 * SIMD_GROUPS;
constexpr int THREADS = SETS * SET_THREADS;
constexpr int HALVES = GLU ? 2 : 1;
constexpr int ROWS = HALVES * OUTPUTS;    // of w, in a set: gates, then ups
constexpr int RESULTS = ROWS * TOKENS;    // of a set: the rows' results, token by token
constexpr int ALL_OUTPUTS = SETS * OUTPUTS;
constexpr int CHUNKS = IN / CHUNK;        // in a row
constexpr int ROUNDS = (CHUNKS + SET_THREADS - 1) / SET_THREADS;
constexpr int QUADS = CHUNK / 4;          // of x in a chunk; four values are loaded at once
constexpr int SLABS = QUADS / SLAB;
constexpr int COPIES = SLAB / SETS;       // quads of each row of x that a thread stages at once
constexpr int TILE = TOKENS == 1 ? SLAB : 1;  // quads of each row of x in registers at once
constexpr int GROUPS = IN / GS;
// Neighbouring threads read neighbouring quads; no multiple of 16, which spreads the writes over
// all banks.
constexpr int STRIDE = SET_THREADS + 16 / SLAB;
// Of quads of x in threadgroup memory, between tokens and between quads of a chunk.
constexpr int TOKEN_STRIDE = SLAB * STRIDE;
constexpr int QUAD_STRIDE = STRIDE;
constexpr bool NORM_HERE = false;
constexpr int OWN_TOKENS = (TOKENS + SETS - 1) / SETS;  // whose squares a set sums

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int set = SETS == 1 ? 0 : thread_index / SET_THREADS;
const int set_thread = thread_index - set * SET_THREADS;
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup) - set * SIMD_GROUPS;
const int first_output = static_cast<int>(threadgroup_position_in_grid.x) * ALL_OUTPUTS;

threadgroup vec<InT, 4> staged[TOKENS * SLAB * STRIDE];
threadgroup float shared_squares[TOKENS * SIMD_GROUPS];
threadgroup float shared_acc[SETS * RESULTS * SIMD_GROUPS];

// Aligned, since allocations are and a row of x is a multiple of 32 values.
auto x_quads = reinterpret_cast<const device vec<InT, 4>*>(x);
auto source = reinterpret_cast<const device uint32_t*>(w);
auto scale_row = scales;
auto bias_row = biases;
auto norm_quads = reinterpret_cast<const device vec<NormT, 4>*>(norm_weight);

// The grid is one-dimensional, so the term is 0. It keeps the sum out of the compiler's constants:
// CUDA ands and ors with one constant and one register in one operation, with two constants in two.
const uint32_t two_to_23 = TWO_TO_23 + static_cast<uint32_t>(threadgroup_position_in_grid.y);

int row[ROWS];
float acc[RESULTS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const int out = first_output + set * OUTPUTS + r % OUTPUTS;
  row[r] = r / OUTPUTS * OUT + (out < OUT ? out : OUT - 1);
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) acc[r * TOKENS + t] = 0.0f;
}
// A thread writes one element of y at most. The residual is loaded early, to hide its latency.
const int y_token = TOKENS == 1 ? 0 : thread_index / ALL_OUTPUTS;
const int y_column = thread_index - y_token * ALL_OUTPUTS;
const int y_index = y_token * OUT + first_output + y_column;
const bool has_output = thread_index < TOKENS * ALL_OUTPUTS && first_output + y_column < OUT;
float residual_value = 0.0f;
if (RESIDUAL && has_output) residual_value = static_cast<float>(residual[y_index]);
float rms_scale[TOKENS];
#pragma unroll
for (int t = 0; t < TOKENS; ++t) rms_scale[t] = 1.0f;

for (int round = 0; round < ROUNDS; ++round) {
  const int chunk = round * SET_THREADS + set_thread;
  const int safe_chunk = chunk < CHUNKS ? chunk : CHUNKS - 1;
  const int x_place = set_thread;
  // What is needed of w is loaded first: a compiler moves no load up past a barrier or a store.
#include "include_load_rows.metal"

  #pragma unroll
  for (int slab = 0; slab < SLABS; ++slab) {
#include "include_stage_rows_of_x.metal"

    if (chunk < CHUNKS) {
#include "include_packed_dots.metal"
    }
  }
  if (chunk < CHUNKS) {
#include "include_add_last_group.metal"
  }
}

#include "include_sum_over_lanes.metal"
threadgroup_barrier(mem_flags::mem_threadgroup);
if (has_output) {
  const int y_row = y_column + y_column / OUTPUTS * (ROWS - OUTPUTS);
  float sum = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s)
    sum += shared_acc[(y_row * TOKENS + y_token) * SIMD_GROUPS + s];
  sum *= FACTOR;
  if (GLU) {
    float up = 0.0f;
    for (int s = 0; s < SIMD_GROUPS; ++s)
      up += shared_acc[((y_row + OUTPUTS) * TOKENS + y_token) * SIMD_GROUPS + s];
    sum = sum / (1.0f + precise::exp(-sum)) * (FACTOR * up);
  }
  const InT rounded = static_cast<InT>(sum);
  y[y_index] = RESIDUAL ? static_cast<InT>(static_cast<float>(rounded) + residual_value) : rounded;
}
