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
// k_scales, k_biases, v_scales, v_biases, and those of the tails
//                [B, KV, at least as many rows, D / GS], of at least 8 values
// v, scales and biases lie in memory as the words of k do, row for row.

// A lane has neighbouring quads: one load of words, one scale and one bias.
constexpr int LANE_STEP = (D + 127) / 128;
constexpr int QUAD_STEP = 1;
#include "include_attention_setup.metal"

// In 32 bits, enough for 17 GB of words: in 64, addresses take a quarter of all instructions.
constexpr int ROW_WORDS = D / 4;
constexpr int ROW_GROUPS = D / GS;
const uint32_t first_row =
    static_cast<uint32_t>((batch * k_strides[0] + kv_head * k_strides[1]) / ROW_WORDS);
const uint32_t first_tail_row =
    static_cast<uint32_t>((batch * k_tail_strides[0] + kv_head * k_tail_strides[1]) / ROW_WORDS);
// Lanes without a column read the first.
const uint32_t lane_word = lane * QUADS < D / 4 ? lane * QUADS : 0;
const uint32_t lane_group = lane_word * 4 / GS;
// The grid is one-dimensional, so the term is 0: see matvec.metal.
const uint32_t two_to_23 = 0x4B000000u + static_cast<uint32_t>(threadgroup_position_in_grid.y);
for (int first_key = start + key_group * KEY_TILE; first_key < stop;
     first_key += KEY_GROUPS * KEY_TILE) {
  uint32_t k_words[KEY_TILE * QUADS];
  uint32_t v_words[KEY_TILE * QUADS];
  float k_scale[KEY_TILE];
  float k_bias[KEY_TILE];
  float v_scale[KEY_TILE];
  float v_bias[KEY_TILE];
  // Most tiles lie in one place: one choice of addresses for all their keys.
  const int last_key = first_key + KEY_TILE - 1;
  if (last_key < stop && (first_key >= prefix_keys || last_key < prefix_keys)) {
    const int key = first_key;
#include "include_find_8bit_key.metal"
    #pragma unroll
    for (int j = 0; j < KEY_TILE; ++j) {
      const int rows = j;
#include "include_load_8bit_key.metal"
    }
  } else {
    #pragma unroll
    for (int j = 0; j < KEY_TILE; ++j) {
      const int key = first_key + j < stop ? first_key + j : first_key;
      const int rows = 0;
#include "include_find_8bit_key.metal"
#include "include_load_8bit_key.metal"
    }
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
        score_part[j * SCORE_HEADS + h] += q_quad.x * x;
        score_part[j * SCORE_HEADS + h] += q_quad.y * y;
        score_part[j * SCORE_HEADS + h] += q_quad.z * z;
        score_part[j * SCORE_HEADS + h] += q_quad.w * w;
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
