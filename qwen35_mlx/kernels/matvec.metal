// A packed matrix times one token, with what stands before and after it in a layer.
//
// A run is four consecutive words of a packed row. A threadgroup computes ROWS outputs: a thread
// takes the same runs of every row, so that all it needs of them is asked for at once, and x is read
// and normed once for all. Weights are affine: value = scale * q + bias, so that a run's share of a
// dot product is scale * (x . q) + bias * sum(x); a run lies in one group.
//
// x        [IN]
// w        [HALVES OUT, IN BITS / 32] uint32; scales, biases [HALVES OUT, IN / GS]
// weight   [IN]     of an RMS norm of x, where NORM; EPS the bits of its epsilon
// residual [OUT], where RESIDUAL
// -> y     [OUT]   w x; or, where GLU, silu(g) * u, g above u in w x; rounded, then onto residual

constexpr int THREADS = 32 * SIMDS;
constexpr int HALVES = GLU ? 2 : 1;
constexpr int LINES = HALVES * ROWS;      // rows of w: gates, then their ups
constexpr int PER = 32 / BITS;            // values in a word
constexpr int RUN = 4 * PER;
constexpr int RUNS = IN / RUN;            // in a row
constexpr int ROUNDS = (RUNS + THREADS - 1) / THREADS;
constexpr int QUADS = RUN / 4;            // of x in a run; four values are loaded at once
constexpr int GROUPS = IN / GS;
constexpr int HALF = PER / 2;             // values in half a word
constexpr uint32_t MASK = (1u << BITS) - 1u;
// 2^23: an integer below, put into its last bits, makes a float that is larger by just that integer.
// GPUs convert integers to floats at an eighth of the speed of this.
constexpr uint32_t MAGIC = 0x4B000000u;
// Quad q of run r is staged at q * STRIDE + r: neighbouring threads read neighbours, and the
// excess of STRIDE over a multiple of 16 spreads what they write over all banks.
constexpr int STRIDE = THREADS + 16 / QUADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int first = static_cast<int>(threadgroup_position_in_grid.x) * ROWS;

threadgroup vec<InT, 4> staged[QUADS * STRIDE];
threadgroup float squares[SIMDS];
threadgroup float partial[LINES * SIMDS];

// Aligned: allocations are, and a row of the matrix is a multiple of 16 bytes.
auto packed = reinterpret_cast<const device uint4*>(w);
auto quads = reinterpret_cast<const device vec<InT, 4>*>(x);
auto weights = reinterpret_cast<const device vec<InT, 4>*>(weight);

int row[LINES];
float total[LINES];
#pragma unroll
for (int r = 0; r < LINES; ++r) {
  const int out = first + r % ROWS;
  row[r] = r / ROWS * OUT + (out < OUT ? out : OUT - 1);
  total[r] = 0.0f;
}
// What the last step needs, asked for now too.
const int own = first + thread_index;
const bool writes = thread_index < ROWS && own < OUT;
float onto = 0.0f;
if (RESIDUAL && writes) onto = static_cast<float>(residual[own]);
float norm = 1.0f;

for (int round = 0; round < ROUNDS; ++round) {
  const int run = round * THREADS + thread_index;
  const int at = run < RUNS ? run : RUNS - 1;
  // Before the first barrier and the first store, past which a compiler moves no load up.
  uint4 words[LINES];
  float scale[LINES];
  float bias[LINES];
  #pragma unroll
  for (int r = 0; r < LINES; ++r) {
    const int group = row[r] * GROUPS + at * RUN / GS;
    words[r] = packed[row[r] * RUNS + at];
    scale[r] = static_cast<float>(scales[group]);
    bias[r] = static_cast<float>(biases[group]);
  }
  vec<InT, 4> four[QUADS];
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    const int i = (round * QUADS + q) * THREADS + thread_index;
    four[q] = quads[i < IN / 4 ? i : IN / 4 - 1];
  }

  if (NORM && round == 0) {
    float sum = 0.0f;
    #pragma unroll
    for (int q = 0; q < QUADS; ++q) {
      const float a = static_cast<float>(four[q].x);
      const float b = static_cast<float>(four[q].y);
      const float c = static_cast<float>(four[q].z);
      const float d = static_cast<float>(four[q].w);
      if (q * THREADS + thread_index < IN / 4) sum += a * a + b * b + c * c + d * d;
    }
    // Of later rounds.
    for (int i = QUADS * THREADS + thread_index; i < IN / 4; i += THREADS) {
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
    norm = precise::rsqrt(sum / static_cast<float>(IN) + as_type<float>(EPS));
  }

  // The norm's weights last, and yet before the first store: registers are short.
  vec<InT, 4> by[QUADS];
  if (NORM) {
    #pragma unroll
    for (int q = 0; q < QUADS; ++q) {
      const int i = (round * QUADS + q) * THREADS + thread_index;
      by[q] = weights[i < IN / 4 ? i : IN / 4 - 1];
    }
  }
  if (round > 0) threadgroup_barrier(mem_flags::mem_threadgroup);
  #pragma unroll
  for (int q = 0; q < QUADS; ++q) {
    if (NORM) {
      const float a = static_cast<float>(four[q].x) * norm * static_cast<float>(by[q].x);
      const float b = static_cast<float>(four[q].y) * norm * static_cast<float>(by[q].y);
      const float c = static_cast<float>(four[q].z) * norm * static_cast<float>(by[q].z);
      const float d = static_cast<float>(four[q].w) * norm * static_cast<float>(by[q].w);
      four[q].x = static_cast<InT>(a);
      four[q].y = static_cast<InT>(b);
      four[q].z = static_cast<InT>(c);
      four[q].w = static_cast<InT>(d);
    }
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
    for (int r = 0; r < LINES; ++r) {
      const uint32_t word[4] = {words[r].x, words[r].y, words[r].z, words[r].w};
      float dot = 0.0f;
      #pragma unroll
      for (int i = 0; i < RUN; ++i) {
        const uint32_t side = i % PER < HALF ? word[i / PER] : word[i / PER] >> 16;
        const uint32_t own_bits = side & (MASK << (i % HALF * BITS));
        dot += value[i] * (as_type<float>(MAGIC | own_bits) - as_type<float>(MAGIC));
      }
      total[r] += scale[r] * dot + bias[r] * sum;
    }
  }
}

#pragma unroll
for (int r = 0; r < LINES; ++r) {
  const float sum = simd_sum(total[r]);
  if (lane == 0) partial[r * SIMDS + simd] = sum;
}
threadgroup_barrier(mem_flags::mem_threadgroup);
if (writes) {
  float sum = 0.0f;
  for (int s = 0; s < SIMDS; ++s) sum += partial[thread_index * SIMDS + s];
  if (GLU) {
    float up = 0.0f;
    for (int s = 0; s < SIMDS; ++s) up += partial[(LINES - ROWS + thread_index) * SIMDS + s];
    sum = sum / (1.0f + precise::exp(-sum)) * up;
  }
  const InT rounded = static_cast<InT>(sum);
  y[own] = RESIDUAL ? static_cast<InT>(static_cast<float>(rounded) + onto) : rounded;
}
