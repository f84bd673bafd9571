// `matvec.metal` without threadgroup memory and barriers: each SIMD group computes rows of its own,
// and reads x from the cache, where its neighbours' reads have put it.
//
// Launch: ceil(OUT / (SIMD_GROUPS OUTPUTS)) threadgroups of SIMD_GROUPS SIMD groups, OUTPUTS outputs
// each, of all rows of x: OUTPUTS TOKENS results, at most 32. The lanes have the chunks of a row in
// turn.
//
// Which lane adds what in which order does not depend on TOKENS, OUTPUTS or TILE: a row of y is the
// same to the bit, whatever rows are computed beside it.
//
// Arrays and constants are those of matvec.metal.

#include "include_packed_format.metal"

constexpr int HALVES = GLU ? 2 : 1;
constexpr int ROWS = HALVES * OUTPUTS;    // of w, in a SIMD group: gates, then ups
constexpr int RESULTS = ROWS * TOKENS;
constexpr int CHUNKS = IN / CHUNK;        // in a row
constexpr int QUADS = CHUNK / 4;          // of x in a chunk; four values are loaded at once
constexpr int TILE = TOKENS == 1 ? QUADS : 1;  // quads of each row of x in registers at once
constexpr int GROUPS = IN / GS;
// For include_packed_dots.metal: all of a chunk at once, at its place in x.
constexpr int SLAB = QUADS;
constexpr int TOKEN_STRIDE = IN / 4;
constexpr int QUAD_STRIDE = 1;
constexpr bool NORM_HERE = NORM;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int first_output =
    (static_cast<int>(threadgroup_position_in_grid.x) * SIMD_GROUPS + simd_group) * OUTPUTS;

// Aligned, since allocations are and a row of x is a multiple of 32 values.
auto x_quads = reinterpret_cast<const device vec<InT, 4>*>(x);
auto source = reinterpret_cast<const device uint32_t*>(w);
auto scale_row = scales;
auto bias_row = biases;
auto norm_quads = reinterpret_cast<const device vec<NormT, 4>*>(norm_weight);
// As in matvec.metal.
const uint32_t two_to_23 = TWO_TO_23 + static_cast<uint32_t>(threadgroup_position_in_grid.y);

float rms_scale[TOKENS];
#pragma unroll
for (int t = 0; t < TOKENS; ++t) {
  rms_scale[t] = 1.0f;
  if (NORM) {
    float square_sum = 0.0f;
    for (int i = lane; i < IN / 4; i += 32) {
      const vec<InT, 4> quad = x_quads[t * (IN / 4) + i];
      const float a = static_cast<float>(quad.x);
      const float b = static_cast<float>(quad.y);
      const float c = static_cast<float>(quad.z);
      const float d = static_cast<float>(quad.w);
      square_sum += a * a + b * b + c * c + d * d;
    }
    const float mean = simd_sum(square_sum) / static_cast<float>(IN);
    rms_scale[t] = precise::rsqrt(mean + as_type<float>(EPS));
  }
}

int row[ROWS];
float acc[RESULTS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const int out = first_output + r % OUTPUTS;
  row[r] = r / OUTPUTS * OUT + (out < OUT ? out : OUT - 1);
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) acc[r * TOKENS + t] = 0.0f;
}

for (int chunk = lane; chunk < CHUNKS; chunk += 32) {
  const int slab = 0;
  const int safe_chunk = chunk;
  const int x_place = chunk * QUADS;
  auto staged = x_quads;  // nothing is staged
#include "include_load_rows.metal"
#include "include_packed_dots.metal"
#include "include_add_last_group.metal"
}

#pragma unroll
for (int t = 0; t < TOKENS; ++t) {
  #pragma unroll
  for (int r = 0; r < OUTPUTS; ++r) {
    float sum = FACTOR * simd_sum(acc[r * TOKENS + t]);
    if (GLU) {
      const float up = FACTOR * simd_sum(acc[(ROWS - OUTPUTS + r) * TOKENS + t]);
      sum = sum / (1.0f + precise::exp(-sum)) * up;
    }
    if (lane == r * TOKENS + t && first_output + r < OUT) {
      const int y_index = t * OUT + first_output + r;
      const InT rounded = static_cast<InT>(sum);
      y[y_index] = RESIDUAL
          ? static_cast<InT>(static_cast<float>(rounded) + static_cast<float>(residual[y_index]))
          : rounded;
    }
  }
}
