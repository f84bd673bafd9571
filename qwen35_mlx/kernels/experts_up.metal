// RMS norm, then gate and up projections of each token's experts and of the shared one, and SwiGLU.
//
// A run is four packed words of a row, which a thread reads at once; no run is of two groups. A
// threadgroup computes ROWS values: each thread takes the same runs of all their rows, so that what
// it needs of the weights is under way before it waits for anything. Weights are affine: value =
// scale * q + bias, so that a run's share of a dot product is scale * (x . q) + bias * sum(x).
//
// x        [N, H], norm [H], eps [1] float32
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
constexpr int STRIDE = THREADS + 1;       // between the quarters of runs: other banks for each
constexpr uint32_t MASK = (1u << BITS) - 1u;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x);
const int token = place / BLOCKS;
const int first = place % BLOCKS * ROWS;

// The values of this round's runs: a run's i-th four are at [i STRIDE + run].
alignas(16) threadgroup float staged[STRIDE * RUN];
threadgroup float partial[2 * ROWS * SIMDS];
threadgroup float squares_of[SIMDS];

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

float gate[ROWS];
float up[ROWS];
#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  gate[r] = 0.0f;
  up[r] = 0.0f;
}
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

  if (round == 0) {
    float squares = 0.0f;
    for (int i = thread_index; i < H; i += THREADS) {
      const float value = static_cast<float>(x[token * H + i]);
      squares += value * value;
    }
    squares = simd_sum(squares);
    if (lane == 0) squares_of[simd] = squares;
    threadgroup_barrier(mem_flags::mem_threadgroup);
    float total = 0.0f;
    for (int s = 0; s < SIMDS; ++s) total += squares_of[s];
    scale = precise::rsqrt(total / static_cast<float>(H) + static_cast<float>(eps[0]));
  }
  for (int i = thread_index; i < THREADS * RUN; i += THREADS) {
    const int column = round * THREADS * RUN + i;
    float value = 0.0f;
    if (column < H) {
      value = static_cast<float>(x[token * H + column]) * scale * static_cast<float>(norm[column]);
      value = static_cast<float>(static_cast<InT>(value));
    }
    staged[(i % RUN / 4 * STRIDE + i / RUN) * 4 + i % 4] = value;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);

  float4 value[PER];
  float sum = 0.0f;
  #pragma unroll
  for (int i = 0; i < PER; ++i) {
    value[i] = *reinterpret_cast<const threadgroup float4*>(staged + (i * STRIDE + thread_index) * 4);
    sum += value[i].x + value[i].y + value[i].z + value[i].w;
  }
  #pragma unroll
  for (int r = 0; r < 2 * ROWS; ++r) {
    float dot = 0.0f;
    #pragma unroll
    for (int i = 0; i < PER; ++i) {
      // Four values: a quarter of the run is PER values of one word, 16 / BITS of them in a half.
      const int at = 4 * i % PER * BITS;
      const uint32_t word = 4 * i / PER == 0 ? packed[r].x
          : 4 * i / PER == 1                 ? packed[r].y
          : 4 * i / PER == 2                 ? packed[r].z
                                             : packed[r].w;
      dot += value[i].x * static_cast<float>((word >> at) & MASK);
      dot += value[i].y * static_cast<float>((word >> (at + BITS)) & MASK);
      dot += value[i].z * static_cast<float>((word >> (at + 2 * BITS)) & MASK);
      dot += value[i].w * static_cast<float>((word >> (at + 3 * BITS)) & MASK);
    }
    const float share = run < RUNS ? scales_of[r] * dot + biases_of[r] * sum : 0.0f;
    if (r % 2 == 0) gate[r / 2] += share;
    else up[r / 2] += share;
  }
  // The next round writes over what others may be reading yet.
  if (round + 1 < ROUNDS) threadgroup_barrier(mem_flags::mem_threadgroup);
}

#pragma unroll
for (int r = 0; r < ROWS; ++r) {
  const float g = simd_sum(gate[r]);
  const float u = simd_sum(up[r]);
  if (lane == 0) {
    partial[2 * r * SIMDS + simd] = g;
    partial[(2 * r + 1) * SIMDS + simd] = u;
  }
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
