// RMS norm, then gate and up projections of each token's experts and of the shared one, and SwiGLU.
//
// A run is four packed words of a row, which a thread reads at once; no run is of two groups. A
// threadgroup computes ROWS values: each thread takes the same runs of all their rows, so that what
// it needs of the weights is under way before it waits for anything. Weights are affine: value =
// scale * q + bias, so that a run's share of a dot product is scale * (x . q) + bias * sum(x).
//
// x        [N, H], norm [H]; EPS the bits of the norm's epsilon
// experts  [N, K] uint32
// w        [E, 2 I, H BITS / 32] uint32, gate rows first; scales, biases [E, 2 I, H / GS]
// shared_w [2 IS, ...], shared_scales, shared_biases: the same for the shared expert
// -> h     [N, K I + IS] float32: silu(gate) * up, expert by expert, then the shared one

constexpr int PER = 32 / BITS;            // values of a word
constexpr int RUN = 4 * PER;
constexpr int RUNS = H / RUN;             // of a row
constexpr int THREADS = 32 * SIMDS;
constexpr int ROUNDS = (RUNS + THREADS - 1) / THREADS;
constexpr int GROUPS = H / GS;
constexpr int OUT = K * I + IS;
constexpr int BLOCKS = (OUT + ROWS - 1) / ROWS;
constexpr int QUADS = RUN / 4;            // of x in a run; four values are loaded at once
// Quad q of run r is staged at q * STRIDE + r: neighbouring threads read neighbours, and the
// excess of STRIDE over a multiple of 16 spreads what they write over all banks.
constexpr int STRIDE = THREADS + 16 / QUADS;
constexpr int HALF = PER / 2;             // values in half a word
constexpr uint32_t MASK = (1u << BITS) - 1u;
// 2^23: an integer below, put into its last bits, makes a float that is larger by just that integer.
// GPUs convert integers to floats at an eighth of the speed of this.
constexpr uint32_t MAGIC = 0x4B000000u;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int token = place / BLOCKS;
const int first = place % BLOCKS * ROWS;

threadgroup vec<InT, 4> staged[QUADS * STRIDE];
threadgroup float partial[2 * ROWS * SIMDS];
threadgroup float squares[SIMDS];

// Aligned: allocations are, and rows are multiples of 16 bytes.
auto quads = reinterpret_cast<const device vec<InT, 4>*>(x) + token * (H / 4);
auto norms = reinterpret_cast<const device vec<InT, 4>*>(norm);

int row_of_gate[ROWS];                    // in w, or in shared_w where `routed` is false
bool routed[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const int out = first + r < OUT ? first + r : OUT - 1;
  routed[r] = out < K * I;
  row_of_gate[r] = routed[r]
      ? static_cast<int>(experts[token * K + out / I]) * 2 * I + out % I
      : out - K * I;
}

float total[2 * ROWS];                    // gate and up in turn
#pragma unroll
for (int r = 0; r < 2 * ROWS; ++r) total[r] = 0.0f;
float scale = 0.0f;                       // of the norm
for (int round = 0; round < ROUNDS; ++round) {
  const int run = round * THREADS + thread_index;
  const int there = run < RUNS ? run : RUNS - 1;
  const int group = there * RUN / GS;
  uint4 packed[2 * ROWS];
  float scales_of[2 * ROWS];
  float biases_of[2 * ROWS];
  #pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    const int g = row_of_gate[r];
    const int u = g + (routed[r] ? I : IS);
    auto words = reinterpret_cast<const device uint4*>(routed[r] ? w : shared_w);
    packed[2 * r] = words[g * RUNS + there];
    packed[2 * r + 1] = words[u * RUNS + there];
    auto scale_row = routed[r] ? scales : shared_scales;
    auto bias_row = routed[r] ? biases : shared_biases;
    scales_of[2 * r] = static_cast<float>(scale_row[g * GROUPS + group]);
    scales_of[2 * r + 1] = static_cast<float>(scale_row[u * GROUPS + group]);
    biases_of[2 * r] = static_cast<float>(bias_row[g * GROUPS + group]);
    biases_of[2 * r + 1] = static_cast<float>(bias_row[u * GROUPS + group]);
  }

  vec<InT, 4> four[QUADS];
  vec<InT, 4> by[QUADS];
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    const int i = (round * QUADS + q) * THREADS + thread_index;
    four[q] = quads[i < H / 4 ? i : 0];
    by[q] = norms[i < H / 4 ? i : 0];
  }

  if (round == 0) {
    float sum = 0.0f;
    #pragma unroll
    for (int q = 0; q < QUADS; ++q) {
      const float a = static_cast<float>(four[q].x);
      const float b = static_cast<float>(four[q].y);
      const float c = static_cast<float>(four[q].z);
      const float d = static_cast<float>(four[q].w);
      if (q * THREADS + thread_index < H / 4) sum += a * a + b * b + c * c + d * d;
    }
    // Of later rounds.
    for (int i = QUADS * THREADS + thread_index; i < H / 4; i += THREADS) {
      const vec<InT, 4> later = quads[i];
      const float a = static_cast<float>(later.x);
      const float b = static_cast<float>(later.y);
      const float c = static_cast<float>(later.z);
      const float d = static_cast<float>(later.w);
      sum += a * a + b * b + c * c + d * d;
    }
    sum = simd_sum(sum);
    if (lane == 0) squares[simd] = sum;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sum = 0.0f;
    for (int s = 0; s < SIMDS; ++s) sum += squares[s];
    scale = precise::rsqrt(sum / static_cast<float>(H) + as_type<float>(EPS));
  }

  // Over what others may be reading yet.
  if (round > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    const float a = static_cast<float>(four[q].x) * scale * static_cast<float>(by[q].x);
    const float b = static_cast<float>(four[q].y) * scale * static_cast<float>(by[q].y);
    const float c = static_cast<float>(four[q].z) * scale * static_cast<float>(by[q].z);
    const float d = static_cast<float>(four[q].w) * scale * static_cast<float>(by[q].w);
    four[q].x = static_cast<InT>(a);
    four[q].y = static_cast<InT>(b);
    four[q].z = static_cast<InT>(c);
    four[q].w = static_cast<InT>(d);
    const int i = q * THREADS + thread_index;
    staged[i % QUADS * STRIDE + i / QUADS] = four[q];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  if (run < RUNS) {
    float value[RUN];
    #pragma unroll
    for (int q = 0; q < QUADS; ++q) {
      const vec<InT, 4> part = staged[q * STRIDE + thread_index];
      value[4 * q] = static_cast<float>(part.x);
      value[4 * q + 1] = static_cast<float>(part.y);
      value[4 * q + 2] = static_cast<float>(part.z);
      value[4 * q + 3] = static_cast<float>(part.w);
    }
    // A value of w stays where it lies in its half of a word, so many powers of two too large: x is
    // made smaller by as much, once for all rows.
    float sum = 0.0f;
    #pragma unroll
    for (int i = 0; i < RUN; ++i) {
      sum += value[i];
      value[i] *= 1.0f / static_cast<float>(1u << (i % HALF * BITS));
    }
    #pragma unroll
    for (int r = 0; r < 2 * ROWS; ++r) {
      const uint32_t word[4] = {packed[r].x, packed[r].y, packed[r].z, packed[r].w};
      float dot = 0.0f;
      #pragma unroll
      for (int i = 0; i < RUN; ++i) {
        const uint32_t side = i % PER < HALF ? word[i / PER] : word[i / PER] >> 16;
        const uint32_t own_bits = side & (MASK << (i % HALF * BITS));
        dot += value[i] * (as_type<float>(MAGIC | own_bits) - as_type<float>(MAGIC));
      }
      total[r] += scales_of[r] * dot + biases_of[r] * sum;
    }
  }
}

#pragma unroll
for (int r = 0; r < 2 * ROWS; ++r) {
  const float sum = simd_sum(total[r]);
  if (lane == 0) partial[r * SIMDS + simd] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (thread_index < ROWS && first + thread_index < OUT) {
  float g = 0.0f;
  float u = 0.0f;
  for (int s = 0; s < SIMDS; ++s) {
    g += partial[2 * thread_index * SIMDS + s];
    u += partial[(2 * thread_index + 1) * SIMDS + s];
  }
  h[token * OUT + first + thread_index] = g / (1.0f + precise::exp(-g)) * u;
}
