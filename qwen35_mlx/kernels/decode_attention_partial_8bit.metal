// Attention of a few tokens to all keys up to each, as decode_attention_partial.metal, where keys
// and values are quantised to 8 bits: value = scale * q + bias, with a scale and a bias for each
// GS neighbours of a row. They are read in this form, and unpacked in registers.
//
// Launch, q, SCALE and outputs: see there. D is at most 256 and a multiple of GS, which is a
// multiple of 8.
//
// k, v           [B, KV, N, D / 4] words of four values, the lowest byte first; heads may lie apart,
//                since a buffer has room to grow
// k_tail, v_tail [B, KV, n, D / 4], the rows after those, likewise; the last T are the tokens' own
// *_scales, *_biases  [B, KV, at least as many rows, D / GS], which lie in memory as their words do,
//                row for row; of at least 8 values

// A lane has neighbouring quads: one load of words, one scale and one bias.
constexpr int LANE_STEP = (D + 127) / 128;
constexpr int QUAD_STEP = 1;
#include "include_attention_setup.metal"

constexpr int ROW_WORDS = D / 4;
constexpr int ROW_GROUPS = D / GS;
const size_t k_row_0 = (batch * k_strides[0] + kv_head * k_strides[1]) / ROW_WORDS;
const size_t v_row_0 = (batch * v_strides[0] + kv_head * v_strides[1]) / ROW_WORDS;
const size_t k_tail_row_0 = (batch * k_tail_strides[0] + kv_head * k_tail_strides[1]) / ROW_WORDS;
const size_t v_tail_row_0 = (batch * v_tail_strides[0] + kv_head * v_tail_strides[1]) / ROW_WORDS;
// Lanes without a column read the first.
const int lane_word = lane * QUADS < ROW_WORDS ? lane * QUADS : 0;
const int lane_group = lane_word * 4 / GS;
for (int first_key = start + key_group * KEY_TILE; first_key < stop;
     first_key += KEY_GROUPS * KEY_TILE) {
  uint32_t k_words[KEY_TILE * QUADS];
  uint32_t v_words[KEY_TILE * QUADS];
  float k_scale[KEY_TILE];
  float k_bias[KEY_TILE];
  float v_scale[KEY_TILE];
  float v_bias[KEY_TILE];
  #pragma unroll
  for (int j = 0; j < KEY_TILE; ++j) {
    const int key = first_key + j < stop ? first_key + j : first_key;
    const bool in_tail = key >= prefix_keys;
    const size_t k_row = in_tail ? k_tail_row_0 + (key - prefix_keys) : k_row_0 + key;
    const size_t v_row = in_tail ? v_tail_row_0 + (key - prefix_keys) : v_row_0 + key;
    auto k_source = (in_tail ? k_tail : k) + k_row * ROW_WORDS + lane_word;
    auto v_source = (in_tail ? v_tail : v) + v_row * ROW_WORDS + lane_word;
    if (QUADS == 2) {
      // Aligned, since allocations are and a row is a multiple of 8 bytes.
      const uint2 k_pair = *reinterpret_cast<const device uint2*>(k_source);
      const uint2 v_pair = *reinterpret_cast<const device uint2*>(v_source);
      k_words[j * QUADS] = k_pair.x;
      k_words[j * QUADS + QUADS - 1] = k_pair.y;
      v_words[j * QUADS] = v_pair.x;
      v_words[j * QUADS + QUADS - 1] = v_pair.y;
    } else {
      k_words[j * QUADS] = k_source[0];
      v_words[j * QUADS] = v_source[0];
    }
    const size_t k_group = k_row * ROW_GROUPS + lane_group;
    const size_t v_group = v_row * ROW_GROUPS + lane_group;
    k_scale[j] = static_cast<float>((in_tail ? k_tail_scales : k_scales)[k_group]);
    k_bias[j] = static_cast<float>((in_tail ? k_tail_biases : k_biases)[k_group]);
    v_scale[j] = static_cast<float>((in_tail ? v_tail_scales : v_scales)[v_group]);
    v_bias[j] = static_cast<float>((in_tail ? v_tail_biases : v_biases)[v_group]);
  }

  float score_part[SCORES];
  #pragma unroll
  for (int p = 0; p < SCORES; ++p) score_part[p] = 0.0f;
  #pragma unroll
  for (int j = 0; j < KEY_TILE; ++j) {
    const float scale = k_scale[j];
    const float bias = k_bias[j];
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      const uint32_t word = k_words[j * QUADS + c];
#include "include_unpack_bytes.metal"
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
    float key_weight[BLOCK_HEADS];
    #pragma unroll
    for (int h = 0; h < BLOCK_HEADS; ++h)
      key_weight[h] = simd_broadcast(weight, static_cast<ushort>(j * SCORE_HEADS + h));
    const float scale = v_scale[j];
    const float bias = v_bias[j];
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      const uint32_t word = v_words[j * QUADS + c];
#include "include_unpack_bytes.metal"
      #pragma unroll
      for (int h = 0; h < BLOCK_HEADS; ++h) {
        acc[h * QUADS + c].x += key_weight[h] * x;
        acc[h * QUADS + c].y += key_weight[h] * y;
        acc[h * QUADS + c].z += key_weight[h] * z;
        acc[h * QUADS + c].w += key_weight[h] * w;
      }
    }
  }
}

#include "include_attention_finish.metal"
