// Included by decode_attention_partial*.metal: which tokens, heads and keys a SIMD group has, its
// queries in threadgroup memory, and its empty sums.
//
// Quad c of a lane (four columns of a row, of QUADS) is quad lane * LANE_STEP + c * QUAD_STEP of the
// row. Queries are staged in the order c * 32 + lane: neighbouring lanes read neighbouring quads.

constexpr int GROUP = H / KV;                       // query heads that share a KV head
constexpr int HEAD_BLOCKS = (GROUP + 3) / 4;
constexpr int BLOCK_HEADS = (GROUP + HEAD_BLOCKS - 1) / HEAD_BLOCKS;  // query heads of a SIMD group
constexpr int SCORE_HEADS = BLOCK_HEADS == 3 ? 4 : BLOCK_HEADS;
constexpr int SCORES = KEY_TILE * SCORE_HEADS;
constexpr int KEY_GROUPS = TOKEN_SIMD_GROUPS / HEAD_BLOCKS;
constexpr int SIMD_GROUPS = TOKENS * TOKEN_SIMD_GROUPS;
constexpr int TOKEN_THREADS = 32 * TOKEN_SIMD_GROUPS;
constexpr int QUADS = (D + 127) / 128;  // of four columns, per lane; some lanes may have none
constexpr int ROW_QUADS = QUADS * 32;   // of a staged query
constexpr int Q_QUADS = GROUP * ROW_QUADS;
constexpr int ACC_QUADS = TOKEN_SIMD_GROUPS * (D / 4);
constexpr int SHARED_QUADS = Q_QUADS > ACC_QUADS ? Q_QUADS : ACC_QUADS;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int token_slot = simd_group / TOKEN_SIMD_GROUPS;  // of the threadgroup's tokens
const int token_thread = static_cast<int>(thread_position_in_threadgroup.x) % TOKEN_THREADS;
const int head_block = simd_group % HEAD_BLOCKS;
const int key_group = simd_group % TOKEN_SIMD_GROUPS / HEAD_BLOCKS;

const int tokens = static_cast<int>(q_shape[2]);
const int prefix_keys = static_cast<int>(k_shape[2]);
const int keys = prefix_keys + static_cast<int>(k_tail_shape[2]);
const int split_keys =
    (keys + MIN_SPLIT_KEYS * MAX_SPLITS - 1) / (MIN_SPLIT_KEYS * MAX_SPLITS) * MIN_SPLIT_KEYS;
const int splits = (keys + split_keys - 1) / split_keys;
const int token_blocks = (tokens + TOKENS - 1) / TOKENS;
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int token_block = threadgroup_index % token_blocks;
const int split = threadgroup_index / token_blocks % splits;
const int kv_head = threadgroup_index / token_blocks / splits % KV;
const int batch = threadgroup_index / token_blocks / splits / KV;
// If too few tokens are left for the last block, it overlaps the one before.
const int token = (token_block * TOKENS < tokens - TOKENS ? token_block * TOKENS : tokens - TOKENS)
    + token_slot;
const int token_keys = keys - tokens + token + 1;
const int start = split * split_keys;
const int stop = start + split_keys < token_keys ? start + split_keys : token_keys;

threadgroup float shared_m[SIMD_GROUPS * BLOCK_HEADS];
threadgroup float shared_l[SIMD_GROUPS * BLOCK_HEADS];
// The queries of each token, and after the last key the sums of its SIMD groups.
threadgroup float4 shared_quads[TOKENS * SHARED_QUADS];

// Columns past D are zero: they add nothing to a score.
for (int i = token_thread; i < Q_QUADS; i += TOKEN_THREADS) {
  const int g = i / ROW_QUADS;
  const int column = (i % 32 * LANE_STEP + i % ROW_QUADS / 32 * QUAD_STEP) * 4;
  auto q_row =
      q + batch * q_strides[0] + (kv_head * GROUP + g) * q_strides[1] + token * q_strides[2];
  const vec<InT, 4> raw =
      *reinterpret_cast<const device vec<InT, 4>*>(q_row + (column < D ? column : 0));
  const float scale = column < D ? as_type<float>(SCALE) : 0.0f;
  float4 q_quad;
  q_quad.x = static_cast<float>(raw.x) * scale;
  q_quad.y = static_cast<float>(raw.y) * scale;
  q_quad.z = static_cast<float>(raw.z) * scale;
  q_quad.w = static_cast<float>(raw.w) * scale;
  shared_quads[token_slot * SHARED_QUADS + i] = q_quad;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

float4 acc[BLOCK_HEADS * QUADS];
#pragma unroll
for (int i = 0; i < BLOCK_HEADS * QUADS; ++i) {
  acc[i].x = 0.0f;
  acc[i].y = 0.0f;
  acc[i].z = 0.0f;
  acc[i].w = 0.0f;
}
// The running maximum of the head whose score this lane has, and this lane's part of the sum.
float m = -INFINITY;
float l = 0.0f;

// If too few heads are left for the last block, it overlaps the one before.
const int first_head = head_block * BLOCK_HEADS < GROUP - BLOCK_HEADS ? head_block * BLOCK_HEADS
                                                                      : GROUP - BLOCK_HEADS;
auto q_quads = shared_quads + token_slot * SHARED_QUADS + first_head * ROW_QUADS + lane;
