// Attention of one token to all keys, a part of them each: the first of two dispatches.
//
// A threadgroup has one key head and one stretch of its keys, of which there are as many as the grid
// has room for. Its SIMD groups take turns at KEYS keys, a key's columns spread over the lanes, each
// for up to four of the query heads of that key head: what more would take in registers leaves too
// few threads to wait for memory. A lane then has a part of KEYS x heads scores; they are exchanged
// by halves, so that every lane ends with the whole of one score and takes one exponential.
//
// q     [B, H, 1, D]
// k, v  [B, KV, N, D], late_k, late_v [B, KV, n, D] after them, with gaps between heads where a buffer
//       has room to grow
// -> parts [B, H, splits, D] float32   values, weighted by exp(score - the highest of the stretch)
//    stats [B, H, splits, 2] float32   that highest score, and the sum of those weights

constexpr int G = H / KV;                       // query heads of a key head
constexpr int SHARES = (G + 3) / 4;
constexpr int OWN = (G + SHARES - 1) / SHARES;  // of a SIMD group
constexpr int WIDE = OWN == 3 ? 4 : OWN;
constexpr int SCORES = KEYS * WIDE;
constexpr int TURNS = SIMDS / SHARES;
constexpr int THREADS = 32 * SIMDS;
constexpr int QUADS = (D + 127) / 128;          // of four columns, to a lane; some may have none
constexpr int COLUMNS = QUADS * 128;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int share = simd % SHARES;
const int turn = simd / SHARES;
const int splits = static_cast<int>(threadgroups_per_grid.x) / (static_cast<int>(k_shape[0]) * KV);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int split = place % splits;
const int kv_head = place / splits % KV;
const int batch = place / splits / KV;
const int before = static_cast<int>(k_shape[2]);
const int keys = before + static_cast<int>(late_k_shape[2]);
const int span = (keys + splits - 1) / splits;
const int start = split * span;
const int stop = start + span < keys ? start + span : keys;

threadgroup float shared_most[SIMDS * OWN];
threadgroup float shared_sum[SIMDS * OWN];
threadgroup float shared_values[SIMDS * D];
threadgroup float4 shared_query[G * COLUMNS / 4];

// What a lane has too much counts for nothing.
for (int i = thread_index; i < G * COLUMNS / 4; i += THREADS) {
  const int g = i / (COLUMNS / 4);
  const int column = i % (COLUMNS / 4) * 4;
  auto from = q + batch * q_strides[0] + (kv_head * G + g) * q_strides[1];
  const vec<InT, 4> packed =
      *reinterpret_cast<const device vec<InT, 4>*>(from + (column < D ? column : 0));
  const float scale = column < D ? as_type<float>(SCALE) : 0.0f;
  float4 four;
  four.x = static_cast<float>(packed.x) * scale;
  four.y = static_cast<float>(packed.y) * scale;
  four.z = static_cast<float>(packed.z) * scale;
  four.w = static_cast<float>(packed.w) * scale;
  shared_query[i] = four;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

float4 total[OWN * QUADS];
#pragma unroll
for (int i = 0; i < OWN * QUADS; ++i) {
  total[i].x = 0.0f;
  total[i].y = 0.0f;
  total[i].z = 0.0f;
  total[i].w = 0.0f;
}
// Of the score that a lane has: its head's highest so far, and the sum of its own weights.
float most = -INFINITY;
float sum = 0.0f;

// Where fewer heads are left for the last share, it has some of the one before again.
const int first_head = share * OWN < G - OWN ? share * OWN : G - OWN;
auto asked = shared_query + first_head * COLUMNS / 4 + lane;
auto own_k = k + batch * k_strides[0] + kv_head * k_strides[1];
auto own_v = v + batch * v_strides[0] + kv_head * v_strides[1];
auto own_late_k = late_k + batch * late_k_strides[0] + kv_head * late_k_strides[1];
auto own_late_v = late_v + batch * late_v_strides[0] + kv_head * late_v_strides[1];
for (int first = start + turn * KEYS; first < stop; first += TURNS * KEYS) {
  vec<InT, 4> of_key[KEYS * QUADS];
  vec<InT, 4> of_value[KEYS * QUADS];
  #pragma unroll
  for (int j = 0; j < KEYS; ++j) {
    const int key = first + j < stop ? first + j : first;
    const bool late = key >= before;
    const size_t row = static_cast<size_t>(late ? key - before : key) * D;
    auto from_k = (late ? own_late_k : own_k) + row;
    auto from_v = (late ? own_late_v : own_v) + row;
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      const int column = (c * 32 + lane) * 4;
      const int at = column < D ? column : 0;
      of_key[j * QUADS + c] = *reinterpret_cast<const device vec<InT, 4>*>(from_k + at);
      of_value[j * QUADS + c] = *reinterpret_cast<const device vec<InT, 4>*>(from_v + at);
    }
  }

  float part[SCORES];
  #pragma unroll
  for (int p = 0; p < SCORES; ++p) part[p] = 0.0f;
  #pragma unroll
  for (int j = 0; j < KEYS; ++j) {
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      const vec<InT, 4> packed = of_key[j * QUADS + c];
      const float x = static_cast<float>(packed.x);
      const float y = static_cast<float>(packed.y);
      const float z = static_cast<float>(packed.z);
      const float w = static_cast<float>(packed.w);
      #pragma unroll
      for (int o = 0; o < OWN; ++o) {
        const float4 four = asked[o * COLUMNS / 4 + c * 32];
        part[j * WIDE + o] += four.x * x + four.y * y + four.z * z + four.w * w;
      }
    }
  }
  #pragma unroll
  for (int half_ = SCORES / 2; half_ > 0; half_ >>= 1) {
    const bool upper = (lane & half_) != 0;
    #pragma unroll
    for (int p = 0; p < half_; ++p) {
      const float given = upper ? part[p] : part[p + half_];
      const float kept = upper ? part[p + half_] : part[p];
      part[p] = kept + simd_shuffle_xor(given, static_cast<ushort>(half_));
    }
  }
  float score = part[0];
  #pragma unroll
  for (int step = SCORES; step < 32; step <<= 1)
    score += simd_shuffle_xor(score, static_cast<ushort>(step));

  // Of key lane / WIDE and head lane % WIDE; beyond SCORES lanes they come again.
  const bool counts = first + lane / WIDE % KEYS < stop;
  if (!counts) score = -INFINITY;
  float higher = score;
  #pragma unroll
  for (int step = WIDE; step < SCORES; step <<= 1) {
    const float other = simd_shuffle_xor(higher, static_cast<ushort>(step));
    higher = other > higher ? other : higher;
  }
  higher = higher > most ? higher : most;
  const float fade = precise::exp(most - higher);
  const float weight = precise::exp(score - higher);
  most = higher;
  sum = sum * fade + weight;
  #pragma unroll
  for (int o = 0; o < OWN; ++o) {
    const float faded = simd_broadcast(fade, static_cast<ushort>(o));
    #pragma unroll
    for (int c = 0; c < QUADS; ++c) {
      total[o * QUADS + c].x *= faded;
      total[o * QUADS + c].y *= faded;
      total[o * QUADS + c].z *= faded;
      total[o * QUADS + c].w *= faded;
    }
  }
  #pragma unroll
  for (int j = 0; j < KEYS; ++j) {
    #pragma unroll
    for (int o = 0; o < OWN; ++o) {
      const float weighs = simd_broadcast(weight, static_cast<ushort>(j * WIDE + o));
      #pragma unroll
      for (int c = 0; c < QUADS; ++c) {
        const vec<InT, 4> packed = of_value[j * QUADS + c];
        total[o * QUADS + c].x += weighs * static_cast<float>(packed.x);
        total[o * QUADS + c].y += weighs * static_cast<float>(packed.y);
        total[o * QUADS + c].z += weighs * static_cast<float>(packed.z);
        total[o * QUADS + c].w += weighs * static_cast<float>(packed.w);
      }
    }
  }
}
#pragma unroll
for (int step = WIDE; step < SCORES; step <<= 1)
  sum += simd_shuffle_xor(sum, static_cast<ushort>(step));

// What the SIMD groups found, as one.
if (lane < OWN) {
  shared_most[simd * OWN + lane] = most;
  shared_sum[simd * OWN + lane] = sum;
}
#pragma unroll
for (int o = 0; o < OWN; ++o) {
  #pragma unroll
  for (int c = 0; c < QUADS; ++c) {
    const int column = (c * 32 + lane) * 4;
    if (column < D) {
      shared_values[simd * D + column] = total[o * QUADS + c].x;
      shared_values[simd * D + column + 1] = total[o * QUADS + c].y;
      shared_values[simd * D + column + 2] = total[o * QUADS + c].z;
      shared_values[simd * D + column + 3] = total[o * QUADS + c].w;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  for (int i = thread_index; i < SHARES * D; i += THREADS) {
    const int other = i / D;
    const int column = i % D;
    const int g = (other * OWN < G - OWN ? other * OWN : G - OWN) + o;
    float highest = -INFINITY;
    for (int t = 0; t < TURNS; ++t) {
      const float one = shared_most[(t * SHARES + other) * OWN + o];
      highest = one > highest ? one : highest;
    }
    float value = 0.0f;
    float weights = 0.0f;
    for (int t = 0; t < TURNS; ++t) {
      const int from = t * SHARES + other;
      const float counted = shared_sum[from * OWN + o];
      // A turn without a key has no highest score: nothing minus nothing would be no number.
      if (counted > 0.0f) {
        const float kept = precise::exp(shared_most[from * OWN + o] - highest);
        value += shared_values[from * D + column] * kept;
        weights += counted * kept;
      }
    }
    const size_t row = (static_cast<size_t>(batch) * H + kv_head * G + g) * splits + split;
    parts[row * D + column] = value;
    if (column == 0) {
      stats[row * 2] = highest;
      stats[row * 2 + 1] = weights;
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
