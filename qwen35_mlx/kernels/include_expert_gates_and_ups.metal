// Included by experts_up.metal: the products of x, normed, with ROWS rows of one format, in
// acc[ROWS].

constexpr int CHUNKS = H / CHUNK;         // in a row
constexpr int ROUNDS = (CHUNKS + THREADS - 1) / THREADS;
constexpr int GROUPS = H / GS;
constexpr int QUADS = CHUNK / 4;          // of x in a chunk; four values are loaded at once
constexpr int STRIDE = THREADS + 16 / QUADS;

for (int round = 0; round < ROUNDS; ++round) {
  const int chunk = round * THREADS + thread_index;
  const int safe_chunk = chunk < CHUNKS ? chunk : CHUNKS - 1;
  uint32_t words[ROWS][CHUNK_WORDS];
  float scale[ROWS][CHUNK_GROUPS];
  float bias[ROWS][CHUNK_GROUPS];
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int row = first_row + r / 2 + r % 2 * up_distance;
    const int index = row * CHUNKS + safe_chunk;
    const int group = row * GROUPS + safe_chunk * CHUNK / GS;
#include "include_load_chunk.metal"
#include "include_load_scales.metal"
  }

#include "include_stage_normed_x.metal"

  if (chunk < CHUNKS) {
    const float dot_weight = 1.0f;
#include "include_load_staged_x.metal"
#include "include_packed_dot.metal"
  }
}
