// The delta rule over many tokens: for each, S = decay S + ((v - decay S k) beta) k^T and y = S q.
//
// A threadgroup has SIMDS SIMD groups of one value head; each keeps PASSES * 32 / LANES rows of its
// state in registers, LANES lanes to a row. What TILE tokens need is fetched by all threads together
// into threadgroup memory, in two buffers: while one is computed from, the loads for the other are
// under way, so that the way to memory is waited for once in TILE tokens, if at all.
//
// q, k    [B, L, NK, DK] float32
// v       [B, L, NV, DV] float32, L at least 1
// decay, beta [B, L, NV] float32
// overlap [B, L, NK] float32   k . q
// state   [B, NV, DV, DK] float32
// -> y [B, L, NV, DV] float32, state_out

constexpr int GROUP = NV / NK;
constexpr int THREADS = 32 * SIMDS;
constexpr int ABREAST = 32 / LANES;       // rows a SIMD group works on at once
constexpr int OWN = ABREAST * PASSES;     // rows of a SIMD group
constexpr int ROWS = OWN * SIMDS;         // rows of a threadgroup
constexpr int PARTS = DV / ROWS;
constexpr int QUADS = DK / 4;             // of a token's query, or key
constexpr int RUNS = QUADS / LANES;       // of these, a lane's
constexpr int PAIRS = TILE * 2 * QUADS;
constexpr int VALUES = TILE * ROWS;
constexpr int PAIRS_EACH = (PAIRS + THREADS - 1) / THREADS;
constexpr int VALUES_EACH = (VALUES + THREADS - 1) / THREADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int part = place % PARTS;
const int head = place / PARTS % NV;
const int batch = place / PARTS / NV;
const int key_head = head / GROUP;
const int tokens = static_cast<int>(v_shape[1]);
const int last = tokens - 1;

threadgroup float4 pairs[2 * PAIRS];      // per token query | key
threadgroup float values[2 * VALUES];
threadgroup float4 gates[2 * TILE];       // decay, beta, overlap

// This lane's columns of its rows: runs of four, so that neighbours read neighbouring words.
const int column = lane % LANES;
const int row = static_cast<int>(simdgroup_index_in_threadgroup) * OWN + lane / LANES;
const size_t first = static_cast<size_t>(batch) * tokens;
const size_t own = (static_cast<size_t>(batch) * NV + head) * DV + part * ROWS + row;
auto queries = q + (first * NK + key_head) * DK;
auto keys = k + (first * NK + key_head) * DK;
auto wanted = v + (first * NV + head) * DV + part * ROWS;
auto said = y + (first * NV + head) * DV + part * ROWS + row;

float4 rows[PASSES * RUNS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < RUNS; ++r)
    rows[p * RUNS + r] = *reinterpret_cast<const device float4*>(
        state + (own + p * ABREAST) * DK + (r * LANES + column) * 4);

// A tile is filled one round before it is computed from; the first round only fills.
for (int start = -TILE; start < tokens; start += TILE) {
  const int buffer = start / TILE & 1;
  const int ahead = start + TILE;

  // Tokens past the end are the last one again; their gates leave the state as it is. Nothing here
  // may depend on what is loaded, or it would be waited for.
  float4 pair[PAIRS_EACH];
  #pragma unroll
  for (int e = 0; e < PAIRS_EACH; ++e) {
    const int i = thread_index + e * THREADS;
    const int t = ahead + i / (2 * QUADS);
    const int quad = i % (2 * QUADS);
    auto source = quad < QUADS ? queries + quad * 4 : keys + (quad - QUADS) * 4;
    if (PAIRS % THREADS == 0 || i < PAIRS)
      pair[e] = *reinterpret_cast<const device float4*>(
          source + static_cast<size_t>(t < last ? t : last) * NK * DK);
  }
  float value[VALUES_EACH];
  #pragma unroll
  for (int e = 0; e < VALUES_EACH; ++e) {
    const int i = thread_index + e * THREADS;
    const int t = ahead + i / ROWS;
    if (VALUES % THREADS == 0 || i < VALUES)
      value[e] = static_cast<float>(
          wanted[static_cast<size_t>(t < last ? t : last) * NV * DV + i % ROWS]);
  }
  float4 gate;
  if (thread_index < TILE) {
    const int t = ahead + thread_index;
    const size_t from = first + static_cast<size_t>(t < last ? t : last);
    gate.x = static_cast<float>(decay[from * NV + head]);
    gate.y = static_cast<float>(beta[from * NV + head]);
    gate.z = static_cast<float>(overlap[from * NK + key_head]);
    gate.w = 0.0f;
  }

  if (start >= 0) {
    float4 now = gates[buffer * TILE];
    float4 key[RUNS];
    #pragma unroll
    for (int r = 0; r < RUNS; ++r) key[r] = pairs[buffer * PAIRS + QUADS + r * LANES + column];
    #pragma unroll
    for (int t = 0; t < TILE; ++t) {
      const int at_token = (buffer * TILE + t) * 2 * QUADS + column;
      // Four sums each, since one would wait for itself at every step.
      float4 with_key[PASSES];
      float4 with_query[PASSES];
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        with_key[p].x = with_key[p].y = with_key[p].z = with_key[p].w = 0.0f;
        with_query[p].x = with_query[p].y = with_query[p].z = with_query[p].w = 0.0f;
        #pragma unroll
        for (int r = 0; r < RUNS; ++r) {
          const int at = p * RUNS + r;
          with_key[p].x += rows[at].x * key[r].x;
          with_key[p].y += rows[at].y * key[r].y;
          with_key[p].z += rows[at].z * key[r].z;
          with_key[p].w += rows[at].w * key[r].w;
        }
      }
      // While sums are exchanged there is time to let the state fade.
      #pragma unroll
      for (int r = 0; r < RUNS; ++r) {
        const float4 query = pairs[at_token + r * LANES];
        #pragma unroll
        for (int p = 0; p < PASSES; ++p) {
          const int at = p * RUNS + r;
          rows[at].x *= now.x;
          rows[at].y *= now.x;
          rows[at].z *= now.x;
          rows[at].w *= now.x;
          with_query[p].x += rows[at].x * query.x;
          with_query[p].y += rows[at].y * query.y;
          with_query[p].z += rows[at].z * query.z;
          with_query[p].w += rows[at].w * query.w;
        }
      }
      // The next token's are asked for before they are needed.
      float4 next = now;
      float4 next_key[RUNS];
      if (t + 1 < TILE) {
        next = gates[buffer * TILE + t + 1];
        #pragma unroll
        for (int r = 0; r < RUNS; ++r) next_key[r] = pairs[at_token + 3 * QUADS + r * LANES];
      }
      float recalled[PASSES];
      float out[PASSES];
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        recalled[p] = (with_key[p].x + with_key[p].y) + (with_key[p].z + with_key[p].w);
        out[p] = (with_query[p].x + with_query[p].y) + (with_query[p].z + with_query[p].w);
      }
      #pragma unroll
      for (int step = 1; step < LANES; step *= 2) {
        #pragma unroll
        for (int p = 0; p < PASSES; ++p) {
          recalled[p] += simd_shuffle_xor(recalled[p], static_cast<ushort>(step));
          out[p] += simd_shuffle_xor(out[p], static_cast<ushort>(step));
        }
      }
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        const float target = values[(buffer * TILE + t) * ROWS + row + p * ABREAST];
        const float delta = (target - now.x * recalled[p]) * now.y;
        #pragma unroll
        for (int r = 0; r < RUNS; ++r) {
          const int at = p * RUNS + r;
          rows[at].x += delta * key[r].x;
          rows[at].y += delta * key[r].y;
          rows[at].z += delta * key[r].z;
          rows[at].w += delta * key[r].w;
        }
        // S q after the update, from the products with the state before it.
        if (column == 0 && start + t < tokens)
          said[static_cast<size_t>(start + t) * NV * DV + p * ABREAST] = out[p] + delta * now.z;
      }
      if (t + 1 < TILE) {
        now = next;
        #pragma unroll
        for (int r = 0; r < RUNS; ++r) key[r] = next_key[r];
      }
    }
  }

  // All have done with the other buffer since the last barrier.
  const int other = 1 - buffer;
  #pragma unroll
  for (int e = 0; e < PAIRS_EACH; ++e) {
    const int i = thread_index + e * THREADS;
    if (PAIRS % THREADS == 0 || i < PAIRS) pairs[other * PAIRS + i] = pair[e];
  }
  #pragma unroll
  for (int e = 0; e < VALUES_EACH; ++e) {
    const int i = thread_index + e * THREADS;
    if (VALUES % THREADS == 0 || i < VALUES) values[other * VALUES + i] = value[e];
  }
  if (thread_index < TILE) {
    if (ahead + thread_index > last) {
      gate.x = 1.0f;
      gate.y = 0.0f;
    }
    gates[other * TILE + thread_index] = gate;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < RUNS; ++r)
    *reinterpret_cast<device float4*>(
        state_out + (own + p * ABREAST) * DK + (r * LANES + column) * 4) = rows[p * RUNS + r];
