// Attention of a few tokens to all keys up to each: the second of two dispatches. Merges the splits
// of decode_attention_partial.metal and multiplies by the sigmoid of the gate.
//
// Launch: B * H * T * ceil(D / 32) threadgroups of SIMD_GROUPS SIMD groups: 32 columns of a head of
// a token, one per lane; the splits are dealt out to the SIMD groups. A split without a key adds
// zeros.
//
// partial_acc [B, H, T, splits, D], partial_ml [B, H, T, splits, 2] float32
// gate        [B, T, H, D]; heads may lie apart
// -> y        [B, T, H D], rounded before the gate and after

constexpr int COLUMN_BLOCKS = (D + 31) / 32;

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int simd_group = static_cast<int>(simdgroup_index_in_threadgroup);
const int threadgroup_index = static_cast<int>(threadgroup_position_in_grid.x);
const int column = threadgroup_index % COLUMN_BLOCKS * 32 + lane;
const int row = threadgroup_index / COLUMN_BLOCKS;
const int tokens = static_cast<int>(partial_acc_shape[2]);
const int splits = static_cast<int>(partial_acc_shape[3]);
const int token = row % tokens;
const int head = row / tokens % H;
const int batch = row / tokens / H;
// Lanes without a column read the first.
auto acc_row = partial_acc + static_cast<size_t>(row) * splits * D + (column < D ? column : 0);
auto ml_row = partial_ml + row * splits * 2;

threadgroup float shared_acc[SIMD_GROUPS * 32];
threadgroup float shared_l[SIMD_GROUPS];

// Each SIMD group finds the maximum of all splits.
float m = -INFINITY;
for (int s = lane; s < splits; s += 32) {
  const float m_split = static_cast<float>(ml_row[2 * s]);
  m = m_split > m ? m_split : m;
}
m = simd_max(m);

float acc = 0.0f;
float l = 0.0f;
for (int s = simd_group; s < splits; s += SIMD_GROUPS) {
  const float rescale = precise::exp(static_cast<float>(ml_row[2 * s]) - m);
  l += static_cast<float>(ml_row[2 * s + 1]) * rescale;
  acc += static_cast<float>(acc_row[s * D]) * rescale;
}
shared_acc[simd_group * 32 + lane] = acc;
if (lane == 0) shared_l[simd_group] = l;
threadgroup_barrier(mem_flags::mem_threadgroup);

if (simd_group == 0 && column < D) {
  const float gate_logit = static_cast<float>(
      gate[batch * gate_strides[0] + token * gate_strides[1] + head * gate_strides[2] + column]);
  acc = 0.0f;
  l = 0.0f;
  for (int s = 0; s < SIMD_GROUPS; ++s) {
    acc += shared_acc[s * 32 + lane];
    l += shared_l[s];
  }
  const InT attended = static_cast<InT>(acc / l);
  const InT gate_value = static_cast<InT>(1.0f / (1.0f + precise::exp(-gate_logit)));
  y[((batch * tokens + token) * H + head) * D + column] =
      static_cast<InT>(static_cast<float>(attended) * static_cast<float>(gate_value));
}
