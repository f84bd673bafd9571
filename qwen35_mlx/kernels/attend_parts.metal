// Attention of one token to all keys, a part of them each: the first of two dispatches.
//
// A threadgroup has one key head and one of SPLITS stretches of its keys; its SIMD groups take turns
// at the keys, a key's columns spread over the lanes, for all query heads of that key head at once, so
// that keys and values are read once.
//
// q     [B, H, 1, D]
// k, v  [B, KV, N, D], with gaps between heads where a buffer has room to grow
// -> parts [B, H, SPLITS, D] float32   values, weighted by exp(score - the highest of the stretch)
//    stats [B, H, SPLITS, 2] float32   that highest score, and the sum of those weights

constexpr int G = H / KV;                 // query heads of a key head
constexpr int THREADS = 32 * SIMDS;
constexpr int QUADS = (D + 127) / 128;    // of four columns, to a lane; some lanes may have none

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int split = place % SPLITS;
const int kv_head = place / SPLITS % KV;
const int batch = place / SPLITS / KV;
const int keys = static_cast<int>(k_shape[2]);
const int span = (keys + SPLITS - 1) / SPLITS;
const int start = split * span;
const int stop = start + span < keys ? start + span : keys;

threadgroup float shared_most[SIMDS * G];
threadgroup float shared_sum[SIMDS * G];
threadgroup float shared_values[SIMDS * D];

float4 query[G * QUADS];
float4 total[G * QUADS];
float most[G];
float sum[G];
#pragma unroll
for (int g = 0; g < G; ++g) {
  auto from = q + batch * q_strides[0] + (kv_head * G + g) * q_strides[1];
  #pragma unroll
  for (int c = 0; c < QUADS; ++c) {
    const int column = (c * 32 + lane) * 4;
    const vec<InT, 4> four =
        *reinterpret_cast<const device vec<InT, 4>*>(from + (column < D ? column : 0));
    // What a lane has too much counts for nothing.
    const float scale = column < D ? as_type<float>(SCALE) : 0.0f;
    query[g * QUADS + c].x = static_cast<float>(four.x) * scale;
    query[g * QUADS + c].y = static_cast<float>(four.y) * scale;
    query[g * QUADS + c].z = static_cast<float>(four.z) * scale;
    query[g * QUADS + c].w = static_cast<float>(four.w) * scale;
    total[g * QUADS + c].x = 0.0f;
    total[g * QUADS + c].y = 0.0f;
    total[g * QUADS + c].z = 0.0f;
    total[g * QUADS + c].w = 0.0f;
  }
  most[g] = -INFINITY;
  sum[g] = 0.0f;
}

auto own_k = k + batch * k_strides[0] + kv_head * k_strides[1];
auto own_v = v + batch * v_strides[0] + kv_head * v_strides[1];
for (int key = start + simd; key < stop; key += SIMDS) {
  float4 a[QUADS];
  float4 b[QUADS];
  #pragma unroll
  for (int c = 0; c < QUADS; ++c) {
    const int column = (c * 32 + lane) * 4;
    const size_t at = static_cast<size_t>(key) * D + (column < D ? column : 0);
    const vec<InT, 4> of_key = *reinterpret_cast<const device vec<InT, 4>*>(own_k + at);
    const vec<InT, 4> of_value = *reinterpret_cast<const device vec<InT, 4>*>(own_v + at);
    a[c].x = static_cast<float>(of_key.x);
    a[c].y = static_cast<float>(of_key.y);
    a[c].z = static_cast<float>(of_key.z);
    a[c].w = static_cast<float>(of_key.w);
    b[c].x = static_cast<float>(of_value.x);
    b[c].y = static_cast<float>(of_value.y);
    b[c].z = static_cast<float>(of_value.z);
    b[c].w = static_cast<float>(of_value.w);
  }
  #pragma unroll
  for (int g = 0; g < G; ++g) {
    float dot = 0.0f;
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      const float4 part = query[g * QUADS + c];
      dot += part.x * a[c].x + part.y * a[c].y + part.z * a[c].z + part.w * a[c].w;
    }
    const float score = simd_sum(dot);
    const float higher = score > most[g] ? score : most[g];
    const float fade = precise::exp(most[g] - higher);
    const float weight = precise::exp(score - higher);
    most[g] = higher;
    sum[g] = sum[g] * fade + weight;
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      total[g * QUADS + c].x = total[g * QUADS + c].x * fade + weight * b[c].x;
      total[g * QUADS + c].y = total[g * QUADS + c].y * fade + weight * b[c].y;
      total[g * QUADS + c].z = total[g * QUADS + c].z * fade + weight * b[c].z;
      total[g * QUADS + c].w = total[g * QUADS + c].w * fade + weight * b[c].w;
    }
  }
}

// What the SIMD groups found, as one.
#pragma unroll
for (int g = 0; g < G; ++g) {
  if (lane == 0) {
    shared_most[simd * G + g] = most[g];
    shared_sum[simd * G + g] = sum[g];
  }
}
#pragma unroll
for (int g = 0; g < G; ++g) {
  #pragma unroll
  for (int c = 0; c < QUADS; ++c) {
    const int column = (c * 32 + lane) * 4;
    if (column < D) {
      shared_values[simd * D + column] = total[g * QUADS + c].x;
      shared_values[simd * D + column + 1] = total[g * QUADS + c].y;
      shared_values[simd * D + column + 2] = total[g * QUADS + c].z;
      shared_values[simd * D + column + 3] = total[g * QUADS + c].w;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float highest = -INFINITY;
  for (int s = 0; s < SIMDS; ++s) {
    const float other = shared_most[s * G + g];
    highest = other > highest ? other : highest;
  }
  const int head = kv_head * G + g;
  const size_t row = (static_cast<size_t>(batch) * H + head) * SPLITS + split;
  float weights = 0.0f;
  // A stretch without a key has no highest score: nothing minus nothing would be no number.
  for (int s = 0; s < SIMDS; ++s)
    if (shared_sum[s * G + g] > 0.0f)
      weights += shared_sum[s * G + g] * precise::exp(shared_most[s * G + g] - highest);
  for (int i = thread_index; i < D; i += THREADS) {
    float value = 0.0f;
    for (int s = 0; s < SIMDS; ++s)
      if (shared_sum[s * G + g] > 0.0f)
        value += shared_values[s * D + i] * precise::exp(shared_most[s * G + g] - highest);
    parts[row * D + i] = value;
  }
  if (thread_index == 0) {
    stats[row * 2] = highest;
    stats[row * 2 + 1] = weights;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
