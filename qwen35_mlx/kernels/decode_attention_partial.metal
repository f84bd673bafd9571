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

constexpr int LANE_STEP = 1;
constexpr int QUAD_STEP = 32;
#include "include_attention_setup.metal"

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
      const int column = (lane * LANE_STEP + c * QUAD_STEP) * 4;
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

#include "include_attention_softmax.metal"

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

#include "include_attention_finish.metal"
