// Included by experts_down.metal: one chunk of h times the same chunk of ROWS rows of one format,
// added to acc[ROWS].

const int chunk = item - first_item;
const int row_chunks = (routed ? I : IS) / CHUNK;
const int row_groups = (routed ? I : IS) / GS;
auto h_quads = reinterpret_cast<const device float4*>(h + token * OUT + slot * I + chunk * CHUNK);

uint32_t words[ROWS][CHUNK_WORDS];
float scale[ROWS][CHUNK_GROUPS];
float bias[ROWS][CHUNK_GROUPS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const int row = first_row + (first_output + r < H ? first_output + r : H - 1);
  const int index = row * row_chunks + chunk;
  const int group = row * row_groups + chunk * CHUNK / GS;
#include "include_load_chunk.metal"
#include "include_load_scales.metal"
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
