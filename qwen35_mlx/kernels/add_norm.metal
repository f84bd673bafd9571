// What stands between two halves of a layer: the sum with the residual, and its RMS norm. One
// threadgroup to a row.
//
// x, y    [N, H]
// weight  [H], eps [1] float32
// -> sum [N, H] x + y, as it is rounded; normed [N, H]

constexpr int THREADS = 32 * SIMDS;
constexpr int EACH = (H + THREADS - 1) / THREADS;

const int thread_index = static_cast<int>(thread_position_in_threadgroup.x);
const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd = static_cast<int>(simdgroup_index_in_threadgroup);
const int row = static_cast<int>(threadgroup_position_in_grid.x) * H;

threadgroup float partial[SIMDS];

float value[EACH];
float squares = 0.0f;
#pragma unroll
for (int e = 0; e < EACH; ++e) {
  const int i = thread_index + e * THREADS;
  value[e] = 0.0f;
  if (i < H) {
    const InT both =
        static_cast<InT>(static_cast<float>(x[row + i]) + static_cast<float>(y[row + i]));
    sum[row + i] = both;
    value[e] = static_cast<float>(both);
  }
  squares += value[e] * value[e];
}
squares = simd_sum(squares);
if (lane == 0) partial[simd] = squares;
threadgroup_barrier(mem_flags::mem_threadgroup);

float total = 0.0f;
for (int s = 0; s < SIMDS; ++s) total += partial[s];
const float scale = precise::rsqrt(total / static_cast<float>(H) + static_cast<float>(eps[0]));
#pragma unroll
for (int e = 0; e < EACH; ++e) {
  const int i = thread_index + e * THREADS;
  if (i < H) normed[row + i] = static_cast<InT>(value[e] * scale * static_cast<float>(weight[i]));
}
