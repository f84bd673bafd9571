// The second of three dispatches of a Gated DeltaNet layer over many tokens: the delta rule,
// S = decay S + ((v - decay S k) beta) k^T and y = S q, one token after the other.
//
// Launch: B * NV * DV / ROWS threadgroups of SIMD_GROUPS SIMD groups, ROWS rows of one value head's
// state each. A SIMD group has PASSES * 32 / LANES rows in registers, LANES lanes to a row. All
// threads together load the inputs of a tile of TILE tokens into threadgroup memory, which has two
// buffers: the next tile is loaded while this one is computed, to hide the latency of memory.
//
// q, k        [B, L, NK, DK] float32
// v           [B, L, NV, DV] float32, L at least 1
// decay, beta [B, L, NV] float32
// overlap     [B, L, NK] float32   k . q
// state       [B, NV, DV, DK] float32
// -> y        [B, L, NV, DV] float32
//    state_out

constexpr int GROUP = NV / NK;
constexpr int THREADS = 32 * SIMD_GROUPS;
constexpr int ROWS_PER_PASS = 32 / LANES;       // rows that a SIMD group computes at once
constexpr int SIMD_ROWS = ROWS_PER_PASS * PASSES;
constexpr int ROWS = SIMD_ROWS * SIMD_GROUPS;
constexpr int ROW_BLOCKS = DV / ROWS;
constexpr int HEAD_QUADS = DK / 4;              // quads: four columns, for wide loads
constexpr int LANE_QUADS = HEAD_QUADS / LANES;
constexpr int QK_QUADS = TILE * 2 * HEAD_QUADS;
constexpr int VALUES = TILE * ROWS;
constexpr int QK_PER_THREAD = (QK_QUADS + THREADS - 1) / THREADS;
constexpr int VALUES_PER_THREAD = (VALUES + THREADS - 1) / THREADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int row_block = threadgroup_index % ROW_BLOCKS;
const int head = threadgroup_index / ROW_BLOCKS % NV;
const int batch = threadgroup_index / ROW_BLOCKS / NV;
const int key_head = head / GROUP;
const int tokens = static_cast<int>(v_shape[1]);
const int last = tokens - 1;

threadgroup float4 qk_tiles[2 * QK_QUADS];      // q | k of each token
threadgroup float v_tiles[2 * VALUES];
threadgroup float4 gate_tiles[2 * TILE];       // decay, beta, overlap

// This lane's columns of its rows: quads, so that neighbouring lanes read neighbouring words.
const int column = lane % LANES;
const int row = static_cast<int>(simdgroup_index_in_threadgroup) * SIMD_ROWS + lane / LANES;
const size_t first_token = static_cast<size_t>(batch) * tokens;
const size_t state_row = (static_cast<size_t>(batch) * NV + head) * DV + row_block * ROWS + row;
auto q_head = q + (first_token * NK + key_head) * DK;
auto k_head = k + (first_token * NK + key_head) * DK;
auto v_rows = v + (first_token * NV + head) * DV + row_block * ROWS;
auto y_rows = y + (first_token * NV + head) * DV + row_block * ROWS + row;

float4 S[PASSES * LANE_QUADS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < LANE_QUADS; ++r)
    S[p * LANE_QUADS + r] = *reinterpret_cast<const device float4*>(
        state + (state_row + p * ROWS_PER_PASS) * DK + (r * LANES + column) * 4);

// A tile is loaded one round before it is computed; the first round only loads.
for (int start = -TILE; start < tokens; start += TILE) {
  const int buffer = start / TILE & 1;
  const int load_start = start + TILE;

  // Tokens past the end repeat the last one; their gates (below) leave the state as it is. Nothing
  // here may depend on a loaded value, or the thread would wait for it.
  float4 qk_loaded[QK_PER_THREAD];
  #pragma unroll
  for (int e = 0; e < QK_PER_THREAD; ++e) {
    const int i = thread_index + e * THREADS;
    const int t = load_start + i / (2 * HEAD_QUADS);
    const int quad = i % (2 * HEAD_QUADS);
    auto source = quad < HEAD_QUADS ? q_head + quad * 4 : k_head + (quad - HEAD_QUADS) * 4;
    if (QK_QUADS % THREADS == 0 || i < QK_QUADS)
      qk_loaded[e] = *reinterpret_cast<const device float4*>(
          source + static_cast<size_t>(t < last ? t : last) * NK * DK);
  }
  float v_loaded[VALUES_PER_THREAD];
  #pragma unroll
  for (int e = 0; e < VALUES_PER_THREAD; ++e) {
    const int i = thread_index + e * THREADS;
    const int t = load_start + i / ROWS;
    if (VALUES % THREADS == 0 || i < VALUES)
      v_loaded[e] = static_cast<float>(
          v_rows[static_cast<size_t>(t < last ? t : last) * NV * DV + i % ROWS]);
  }
  float4 gate_loaded;
  if (thread_index < TILE) {
    const int t = load_start + thread_index;
    const size_t token = first_token + static_cast<size_t>(t < last ? t : last);
    gate_loaded.x = static_cast<float>(decay[token * NV + head]);
    gate_loaded.y = static_cast<float>(beta[token * NV + head]);
    gate_loaded.z = static_cast<float>(overlap[token * NK + key_head]);
    gate_loaded.w = 0.0f;
  }

  if (start >= 0) {
    float4 gate = gate_tiles[buffer * TILE];
    float4 k_quad[LANE_QUADS];
    #pragma unroll
    for (int r = 0; r < LANE_QUADS; ++r)
      k_quad[r] = qk_tiles[buffer * QK_QUADS + HEAD_QUADS + r * LANES + column];
    #pragma unroll
    for (int t = 0; t < TILE; ++t) {
      const int token_offset = (buffer * TILE + t) * 2 * HEAD_QUADS + column;
      // Four accumulators each, to shorten the chain of dependent additions.
      float4 s_k_quad[PASSES];
      float4 s_q_quad[PASSES];
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        s_k_quad[p].x = s_k_quad[p].y = s_k_quad[p].z = s_k_quad[p].w = 0.0f;
        s_q_quad[p].x = s_q_quad[p].y = s_q_quad[p].z = s_q_quad[p].w = 0.0f;
        #pragma unroll
        for (int r = 0; r < LANE_QUADS; ++r) {
          const int i = p * LANE_QUADS + r;
          s_k_quad[p].x += S[i].x * k_quad[r].x;
          s_k_quad[p].y += S[i].y * k_quad[r].y;
          s_k_quad[p].z += S[i].z * k_quad[r].z;
          s_k_quad[p].w += S[i].w * k_quad[r].w;
        }
      }
      // The state decays here, between the dot products, to overlap with their latency.
      #pragma unroll
      for (int r = 0; r < LANE_QUADS; ++r) {
        const float4 q_quad = qk_tiles[token_offset + r * LANES];
        #pragma unroll
        for (int p = 0; p < PASSES; ++p) {
          const int i = p * LANE_QUADS + r;
          S[i].x *= gate.x;
          S[i].y *= gate.x;
          S[i].z *= gate.x;
          S[i].w *= gate.x;
          s_q_quad[p].x += S[i].x * q_quad.x;
          s_q_quad[p].y += S[i].y * q_quad.y;
          s_q_quad[p].z += S[i].z * q_quad.z;
          s_q_quad[p].w += S[i].w * q_quad.w;
        }
      }
      // Load the next token's key and gates before they are needed.
      float4 next_gate = gate;
      float4 next_k_quad[LANE_QUADS];
      if (t + 1 < TILE) {
        next_gate = gate_tiles[buffer * TILE + t + 1];
        #pragma unroll
        for (int r = 0; r < LANE_QUADS; ++r)
          next_k_quad[r] = qk_tiles[token_offset + 3 * HEAD_QUADS + r * LANES];
      }
      float s_k[PASSES];
      float s_q[PASSES];
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        s_k[p] = (s_k_quad[p].x + s_k_quad[p].y) + (s_k_quad[p].z + s_k_quad[p].w);
        s_q[p] = (s_q_quad[p].x + s_q_quad[p].y) + (s_q_quad[p].z + s_q_quad[p].w);
      }
      #pragma unroll
      for (int distance = 1; distance < LANES; distance *= 2) {
        #pragma unroll
        for (int p = 0; p < PASSES; ++p) {
          s_k[p] += simd_shuffle_xor(s_k[p], static_cast<ushort>(distance));
          s_q[p] += simd_shuffle_xor(s_q[p], static_cast<ushort>(distance));
        }
      }
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        const float target = v_tiles[(buffer * TILE + t) * ROWS + row + p * ROWS_PER_PASS];
        const float delta = (target - gate.x * s_k[p]) * gate.y;
        #pragma unroll
        for (int r = 0; r < LANE_QUADS; ++r) {
          const int i = p * LANE_QUADS + r;
          S[i].x += delta * k_quad[r].x;
          S[i].y += delta * k_quad[r].y;
          S[i].z += delta * k_quad[r].z;
          S[i].w += delta * k_quad[r].w;
        }
        // S q after the update, from the product with the state before it.
        if (column == 0 && start + t < tokens)
          y_rows[static_cast<size_t>(start + t) * NV * DV + p * ROWS_PER_PASS] =
              s_q[p] + delta * gate.z;
      }
      if (t + 1 < TILE) {
        gate = next_gate;
        #pragma unroll
        for (int r = 0; r < LANE_QUADS; ++r) k_quad[r] = next_k_quad[r];
      }
    }
  }

  // Since the last barrier no thread reads the other buffer.
  const int other_buffer = 1 - buffer;
  #pragma unroll
  for (int e = 0; e < QK_PER_THREAD; ++e) {
    const int i = thread_index + e * THREADS;
    if (QK_QUADS % THREADS == 0 || i < QK_QUADS)
      qk_tiles[other_buffer * QK_QUADS + i] = qk_loaded[e];
  }
  #pragma unroll
  for (int e = 0; e < VALUES_PER_THREAD; ++e) {
    const int i = thread_index + e * THREADS;
    if (VALUES % THREADS == 0 || i < VALUES) v_tiles[other_buffer * VALUES + i] = v_loaded[e];
  }
  if (thread_index < TILE) {
    if (load_start + thread_index > last) {
      gate_loaded.x = 1.0f;
      gate_loaded.y = 0.0f;
    }
    gate_tiles[other_buffer * TILE + thread_index] = gate_loaded;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}

#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int r = 0; r < LANE_QUADS; ++r)
    *reinterpret_cast<device float4*>(
        state_out + (state_row + p * ROWS_PER_PASS) * DK + (r * LANES + column) * 4) =
        S[p * LANE_QUADS + r];
