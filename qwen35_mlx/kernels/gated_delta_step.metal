// A few tokens (T, at most 8) through everything between the two projections of a Gated DeltaNet
// layer: causal convolution, SiLU, l2 norm of q and k, gates, delta rule, gated norm.
//
// One threadgroup per value head and row of the batch; THREADS threads, each SIMD group keeping
// ROWS rows of the head's state in registers, each lane DK / 32 columns of them.
//
// projected  [B, T, 2 NK DK + 2 NV DV + 2 NV]   q | k | v | z | b | a of every token
// conv       [B, KERNEL - 1, 2 NK DK + NV DV]   inputs of the convolution before these tokens
// state      [B, NV, DV, DK] float32
// taps       [KERNEL, 2 NK DK + NV DV] float32
// decay_rate [NV], dt_bias [NV], norm [DV], eps [1]   float32
// count      [1] int32    tokens to take; the others leave no trace, and their y is 0
// -> y [B, T, NV DV], conv_out, state_out

constexpr int GROUP = NV / NK;
constexpr int CHANNELS = 2 * NK * DK + NV * DV;
constexpr int WIDTH = CHANNELS + NV * DV + 2 * NV;
constexpr int OWN = 2 * DK + DV;          // channels this head reads: its q, its k, its v
constexpr int COLUMNS = DK / 32;
constexpr int SIMDS = DV / ROWS;
constexpr int THREADS = 32 * SIMDS;
constexpr int PAST = KERNEL - 1;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int batch = static_cast<int>(threadgroup_position_in_grid.x) / NV;
const int head = static_cast<int>(threadgroup_position_in_grid.x) % NV;
const int key_head = head / GROUP;
const int tokens = static_cast<int>(count[0]);

threadgroup float mixed[T * OWN];         // per token q | k | v, convolved
threadgroup float values[T * DV];         // per token the rule's output
threadgroup float decay[T];
threadgroup float beta[T];

// Convolution and SiLU. The first head of each group also passes on q's and k's last inputs.
for (int i = thread_index; i < OWN; i += THREADS) {
  const int channel = i < DK ? key_head * DK + i
      : i < 2 * DK          ? NK * DK + key_head * DK + i - DK
                            : 2 * NK * DK + head * DV + i - 2 * DK;
  for (int t = 0; t < T; ++t) {
    float sum = 0.0f;
    for (int tap = 0; tap < KERNEL; ++tap) {
      const int at = t + tap - PAST;
      const float x = at < 0
          ? static_cast<float>(conv[(batch * PAST + at + PAST) * CHANNELS + channel])
          : static_cast<float>(projected[(batch * T + at) * WIDTH + channel]);
      sum += x * static_cast<float>(taps[tap * CHANNELS + channel]);
    }
    mixed[t * OWN + i] = sum / (1.0f + precise::exp(-sum));
  }
  if (i >= 2 * DK || head % GROUP == 0) {
    for (int j = 0; j < PAST; ++j) {
      const int at = tokens + j - PAST;
      conv_out[(batch * PAST + j) * CHANNELS + channel] = at < 0
          ? conv[(batch * PAST + at + PAST) * CHANNELS + channel]
          : projected[(batch * T + at) * WIDTH + channel];
    }
  }
}
for (int t = thread_index; t < T; t += THREADS) {
  const int gates = (batch * T + t) * WIDTH + CHANNELS + NV * DV + head;
  const float b = static_cast<float>(projected[gates]);
  const float x = static_cast<float>(projected[gates + NV]) + static_cast<float>(dt_bias[head]);
  // log(1 + e) to the last digit also where e is small: what 1 + e loses, the quotient restores.
  const float e = precise::exp(x < 0.0f ? x : -x);
  const float u = 1.0f + e;
  const float log1p_e = u == 1.0f ? e : precise::log(u) * e / (u - 1.0f);
  const float softplus = (x > 0.0f ? x : 0.0f) + log1p_e;
  decay[t] = precise::exp(-static_cast<float>(decay_rate[head]) * softplus);
  beta[t] = 1.0f / (1.0f + precise::exp(-b));
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// l2 norm of every q and k, one SIMD group each; q is scaled by DK ** -0.5.
for (int vector = simd; vector < 2 * T; vector += SIMDS) {
  const int start = vector / 2 * OWN + vector % 2 * DK;
  float squares = 0.0f;
  for (int c = 0; c < COLUMNS; ++c) {
    const float x = mixed[start + lane * COLUMNS + c];
    squares += x * x;
  }
  float scale = precise::rsqrt(simd_sum(squares) + 1e-6f);
  if (vector % 2 == 0) scale *= precise::rsqrt(static_cast<float>(DK));
  for (int c = 0; c < COLUMNS; ++c) mixed[start + lane * COLUMNS + c] *= scale;
}
threadgroup_barrier(mem_flags::mem_threadgroup);

// The rule, each SIMD group on its own rows.
float rows[ROWS * COLUMNS];
const int block = ((batch * NV + head) * DV + simd * ROWS) * DK + lane * COLUMNS;
for (int r = 0; r < ROWS; ++r)
  for (int c = 0; c < COLUMNS; ++c)
    rows[r * COLUMNS + c] = static_cast<float>(state[block + r * DK + c]);
for (int t = 0; t < T; ++t) {
  if (t < tokens) {
    for (int r = 0; r < ROWS; ++r) {
      float recalled = 0.0f;
      for (int c = 0; c < COLUMNS; ++c) {
        rows[r * COLUMNS + c] *= decay[t];
        recalled += rows[r * COLUMNS + c] * mixed[t * OWN + DK + lane * COLUMNS + c];
      }
      const float v = mixed[t * OWN + 2 * DK + simd * ROWS + r];
      const float delta = (v - simd_sum(recalled)) * beta[t];
      float out = 0.0f;
      for (int c = 0; c < COLUMNS; ++c) {
        rows[r * COLUMNS + c] += delta * mixed[t * OWN + DK + lane * COLUMNS + c];
        out += rows[r * COLUMNS + c] * mixed[t * OWN + lane * COLUMNS + c];
      }
      out = simd_sum(out);
      if (lane == 0) values[t * DV + simd * ROWS + r] = out;
    }
  }
}
for (int r = 0; r < ROWS; ++r)
  for (int c = 0; c < COLUMNS; ++c) state_out[block + r * DK + c] = rows[r * COLUMNS + c];
threadgroup_barrier(mem_flags::mem_threadgroup);

// RMS norm over the head, times silu(z), one SIMD group per token.
for (int t = simd; t < T; t += SIMDS) {
  const int to = (batch * T + t) * NV * DV + head * DV;
  const int gate = (batch * T + t) * WIDTH + CHANNELS + head * DV;
  float squares = 0.0f;
  if (t < tokens) {
    for (int i = lane; i < DV; i += 32) squares += values[t * DV + i] * values[t * DV + i];
  }
  const float mean = simd_sum(squares) / static_cast<float>(DV);
  const float scale = precise::rsqrt(mean + static_cast<float>(eps[0]));
  for (int i = lane; i < DV; i += 32) {
    const float z = static_cast<float>(projected[gate + i]);
    const float gated = z / (1.0f + precise::exp(-z)) * static_cast<float>(norm[i]);
    y[to + i] = static_cast<InT>(t < tokens ? values[t * DV + i] * scale * gated : 0.0f);
  }
}
