// Attention of a few tokens to all keys up to each: the first of two dispatches (flash decoding).
// The keys are cut into splits, each of which is computed here by itself;
// decode_attention_merge.metal merges them.
//
// Launch: B * KV * splits * ceil(T / TOKENS) threadgroups of TOKENS * TOKEN_SIMD_GROUPS SIMD
// groups: one KV head, one split and TOKENS tokens each. Neighbouring threadgroups have the same
// keys, which they find in the cache. The SIMD groups of a token take turns at tiles of KEY_TILE
// keys, for up to four of the query heads that share the KV head: with more, registers leave too
// few threads to hide the latency of memory. The columns of a key are spread over the lanes, so
// that each lane has a part of KEY_TILE x heads scores. Lanes exchange these by halves until every
// lane has one whole score, and one exponential to compute.
//
// A token's result depends on its own keys alone, to the bit: splits and tiles begin at the same
// keys whatever follows, and a SIMD group has one token, so that it takes the same steps with
// T = 1.
//
// q              [B, H, T, D]
// k, v           [B, KV, N, D]; heads may lie apart, since a buffer has room to grow
// k_tail, v_tail [B, KV, n, D], the rows after those, likewise; the last T are the tokens' own
// SCALE          bits of the float32 that scores are multiplied by
// -> partial_acc [B, H, T, splits, D] float32   sum of exp(score - m) v over the keys of a split
//    partial_ml  [B, H, T, splits, 2] float32   m, the highest score, and l, the sum of
//                                               exp(score - m); -inf and 0 of a split without a key

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
  const int column = i % ROW_QUADS * 4;
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
auto k_rows = k + batch * k_strides[0] + kv_head * k_strides[1];
auto v_rows = v + batch * v_strides[0] + kv_head * v_strides[1];
auto k_tail_rows = k_tail + batch * k_tail_strides[0] + kv_head * k_tail_strides[1];
auto v_tail_rows = v_tail + batch * v_tail_strides[0] + kv_head * v_tail_strides[1];
for (int first_key = start + key_group * KEY_TILE; first_key < stop;
     first_key += KEY_GROUPS * KEY_TILE) {
  vec<InT, 4> k_tile[KEY_TILE * QUADS];
  vec<InT, 4> v_tile[KEY_TILE * QUADS];
  #pragma unroll
  for (int j = 0; j < KEY_TILE; ++j) {
    const int key = first_key + j < stop ? first_key + j : first_key;
    const bool in_tail = key >= prefix_keys;
    const size_t row = static_cast<size_t>(in_tail ? key - prefix_keys : key) * D;
    auto k_row = (in_tail ? k_tail_rows : k_rows) + row;
    auto v_row = (in_tail ? v_tail_rows : v_rows) + row;
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      const int column = (c * 32 + lane) * 4;
      const int safe_column = column < D ? column : 0;
      k_tile[j * QUADS + c] = *reinterpret_cast<const device vec<InT, 4>*>(k_row + safe_column);
      v_tile[j * QUADS + c] = *reinterpret_cast<const device vec<InT, 4>*>(v_row + safe_column);
    }
  }

  float score_part[SCORES];
  #pragma unroll
  for (int p = 0; p < SCORES; ++p) score_part[p] = 0.0f;
  #pragma unroll
  for (int j = 0; j < KEY_TILE; ++j) {
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      const vec<InT, 4> raw = k_tile[j * QUADS + c];
      const float x = static_cast<float>(raw.x);
      const float y = static_cast<float>(raw.y);
      const float z = static_cast<float>(raw.z);
      const float w = static_cast<float>(raw.w);
      #pragma unroll
      for (int h = 0; h < BLOCK_HEADS; ++h) {
        const float4 q_quad = q_quads[h * ROW_QUADS + c * 32];
        score_part[j * SCORE_HEADS + h] +=
            q_quad.x * x + q_quad.y * y + q_quad.z * z + q_quad.w * w;
      }
    }
  }
  #pragma unroll
  for (int half_count = SCORES / 2; half_count > 0; half_count >>= 1) {
    const bool upper = (lane & half_count) != 0;
    #pragma unroll
    for (int p = 0; p < half_count; ++p) {
      const float sent_part = upper ? score_part[p] : score_part[p + half_count];
      const float kept_part = upper ? score_part[p + half_count] : score_part[p];
      score_part[p] = kept_part + simd_shuffle_xor(sent_part, static_cast<ushort>(half_count));
    }
  }
  float score = score_part[0];
  #pragma unroll
  for (int distance = SCORES; distance < 32; distance <<= 1)
    score += simd_shuffle_xor(score, static_cast<ushort>(distance));

  // Of key lane / SCORE_HEADS and head lane % SCORE_HEADS; from lane SCORES on they repeat.
  const bool in_range = first_key + lane / SCORE_HEADS % KEY_TILE < stop;
  if (!in_range) score = -INFINITY;
  float m_new = score;
  #pragma unroll
  for (int distance = SCORE_HEADS; distance < SCORES; distance <<= 1) {
    const float other = simd_shuffle_xor(m_new, static_cast<ushort>(distance));
    m_new = other > m_new ? other : m_new;
  }
  m_new = m_new > m ? m_new : m;
  const float rescale = precise::exp(m - m_new);
  const float weight = precise::exp(score - m_new);
  m = m_new;
  l = l * rescale + weight;
  #pragma unroll
  for (int h = 0; h < BLOCK_HEADS; ++h) {
    const float head_rescale = simd_broadcast(rescale, static_cast<ushort>(h));
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      acc[h * QUADS + c].x *= head_rescale;
      acc[h * QUADS + c].y *= head_rescale;
      acc[h * QUADS + c].z *= head_rescale;
      acc[h * QUADS + c].w *= head_rescale;
    }
  }
  #pragma unroll
  for (int j = 0; j < KEY_TILE; ++j) {
    #pragma unroll
    for (int h = 0; h < BLOCK_HEADS; ++h) {
      const float key_weight = simd_broadcast(weight, static_cast<ushort>(j * SCORE_HEADS + h));
      #pragma unroll
      for (int c = 0; c < QUADS; ++c) {
        const vec<InT, 4> raw = v_tile[j * QUADS + c];
        acc[h * QUADS + c].x += key_weight * static_cast<float>(raw.x);
        acc[h * QUADS + c].y += key_weight * static_cast<float>(raw.y);
        acc[h * QUADS + c].z += key_weight * static_cast<float>(raw.z);
        acc[h * QUADS + c].w += key_weight * static_cast<float>(raw.w);
      }
    }
  }
}
#pragma unroll
for (int distance = SCORE_HEADS; distance < SCORES; distance <<= 1)
  l += simd_shuffle_xor(l, static_cast<ushort>(distance));

// Merge the results of the token's SIMD groups.
if (lane < BLOCK_HEADS) {
  shared_m[simd_group * BLOCK_HEADS + lane] = m;
  shared_l[simd_group * BLOCK_HEADS + lane] = l;
}
#pragma unroll
for (int h = 0; h < BLOCK_HEADS; ++h) {
  // Other SIMD groups may still read the queries, or the sums of the head before.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  #pragma unroll
  for (int c = 0; c < QUADS; ++c) {
    const int quad = c * 32 + lane;
    if (quad < D / 4) {
      const int slot = token_slot * SHARED_QUADS + simd_group % TOKEN_SIMD_GROUPS * (D / 4);
      shared_quads[slot + quad] = acc[h * QUADS + c];
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = token_thread; i < HEAD_BLOCKS * (D / 4); i += TOKEN_THREADS) {
    const int block = i / (D / 4);
    const int quad = i % (D / 4);
    const int g = (block * BLOCK_HEADS < GROUP - BLOCK_HEADS ? block * BLOCK_HEADS
                                                             : GROUP - BLOCK_HEADS) + h;
    auto block_m = shared_m + (token_slot * TOKEN_SIMD_GROUPS + block) * BLOCK_HEADS + h;
    auto block_l = shared_l + (token_slot * TOKEN_SIMD_GROUPS + block) * BLOCK_HEADS + h;
    float m_all = -INFINITY;
    for (int t = 0; t < KEY_GROUPS; ++t) {
      const float m_part = block_m[t * HEAD_BLOCKS * BLOCK_HEADS];
      m_all = m_part > m_all ? m_part : m_all;
    }
    float4 acc_sum;
    acc_sum.x = 0.0f;
    acc_sum.y = 0.0f;
    acc_sum.z = 0.0f;
    acc_sum.w = 0.0f;
    float l_sum = 0.0f;
    for (int t = 0; t < KEY_GROUPS; ++t) {
      const float l_part = block_l[t * HEAD_BLOCKS * BLOCK_HEADS];
      // m of a SIMD group without a key is -inf, and -inf - (-inf) would be NaN.
      if (l_part > 0.0f) {
        const float rescale = precise::exp(block_m[t * HEAD_BLOCKS * BLOCK_HEADS] - m_all);
        const float4 part =
            shared_quads[token_slot * SHARED_QUADS + (t * HEAD_BLOCKS + block) * (D / 4) + quad];
        acc_sum.x += part.x * rescale;
        acc_sum.y += part.y * rescale;
        acc_sum.z += part.z * rescale;
        acc_sum.w += part.w * rescale;
        l_sum += l_part * rescale;
      }
    }
    const size_t row =
        ((static_cast<size_t>(batch) * H + kv_head * GROUP + g) * tokens + token) * splits + split;
    partial_acc[row * D + quad * 4] = acc_sum.x;
    partial_acc[row * D + quad * 4 + 1] = acc_sum.y;
    partial_acc[row * D + quad * 4 + 2] = acc_sum.z;
    partial_acc[row * D + quad * 4 + 3] = acc_sum.w;
    if (quad == 0) {
      partial_ml[row * 2] = m_all;
      partial_ml[row * 2 + 1] = l_sum;
    }
  }
}
