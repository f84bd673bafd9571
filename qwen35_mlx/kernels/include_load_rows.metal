// Included by matvec.metal and matvec_light.metal: loads chunk `safe_chunk` of ROWS rows of w, as
// words, scale and bias, and clears dot[ROWS][TOKENS] and x_sum, to which products are added.

uint32_t words[ROWS][CHUNK_WORDS];
float scale[ROWS][CHUNK_GROUPS];
float bias[ROWS][CHUNK_GROUPS];
float dot[ROWS][TOKENS];
float x_sum[TOKENS][CHUNK_GROUPS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const int group = row[r] * GROUPS + safe_chunk * CHUNK / GS;
  const int index = row[r] * CHUNKS + safe_chunk;
#include "include_load_chunk.metal"
#include "include_load_scales.metal"
  #pragma unroll
  for (int t = 0; t < TOKENS; ++t) dot[r][t] = 0.0f;
}
#pragma unroll
for (int t = 0; t < TOKENS; ++t) {
  #pragma unroll
  for (int g = 0; g < CHUNK_GROUPS; ++g) x_sum[t][g] = 0.0f;
}
