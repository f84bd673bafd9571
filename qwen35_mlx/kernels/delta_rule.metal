// The delta rule over many tokens: for each, S = decay S + ((v - decay S k) beta) k^T and y = S q.
//
// A SIMD group keeps PASSES * 32 / LANES rows of one value head's state in registers, LANES lanes
// to a row. It needs nobody else: no barrier, no threadgroup memory. What a token needs is asked for
// AHEAD tokens before.
//
// q, k    [B, L, NK, DK] float32
// v       [B, L, NV, DV] float32
// decay, beta [B, L, NV] float32
// overlap [B, L, NK] float32   k . q
// state   [B, NV, DV, DK] float32
// length  [1] int32    L
// -> y [B, L, NV, DV] float32, state_out

constexpr int GROUP = NV / NK;
constexpr int ABREAST = 32 / LANES;       // rows worked on at once
constexpr int COLUMNS = DK / LANES;
constexpr int RUNS = COLUMNS / 4;         // runs of four columns, so that loads are wide
constexpr int PARTS = DV / (ABREAST * PASSES);

const int lane = static_cast<int>(thread_index_in_simdgroup);
const int place = static_cast<int>(threadgroup_position_in_grid.x) * SIMDS
    + static_cast<int>(simdgroup_index_in_threadgroup);
const int part = place % PARTS;
const int head = place / PARTS % NV;
const int batch = place / PARTS / NV;
const int key_head = head / GROUP;
const int tokens = static_cast<int>(length[0]);

const int column = lane % LANES * 4;
const int row = part * ABREAST * PASSES + lane / LANES;
const size_t own = (static_cast<size_t>(batch) * NV + head) * DV + row;
float rows[PASSES * COLUMNS];
#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    rows[p * COLUMNS + c] = static_cast<float>(
        state[(own + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4]);

const size_t first = static_cast<size_t>(batch) * tokens;
auto queries = q + (first * NK + key_head) * DK + column;
auto keys = k + (first * NK + key_head) * DK + column;
auto values = v + (first * NV + head) * DV + row;
auto said = y + (first * NV + head) * DV + row;
auto decays = decay + first * NV + head;
auto betas = beta + first * NV + head;
auto overlaps = overlap + first * NK + key_head;

float4 query[AHEAD * RUNS];
float4 key[AHEAD * RUNS];
float value[AHEAD * PASSES];
float fade[AHEAD];
float rate[AHEAD];
float along_query[AHEAD];

// Slots are filled one round before they are used; the first round only fills.
for (int start = -AHEAD; start < tokens; start += AHEAD) {
  #pragma unroll
  for (int a = 0; a < AHEAD; ++a) {
    const int t = start + a;
    if (start >= 0 && t < tokens) {
      float recalled[PASSES];
      float out[PASSES];
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        recalled[p] = 0.0f;
        out[p] = 0.0f;
        #pragma unroll
        for (int r = 0; r < RUNS; ++r) {
          const int at = p * COLUMNS + 4 * r;
          recalled[p] += rows[at] * key[a * RUNS + r].x;
          out[p] += rows[at] * query[a * RUNS + r].x;
          recalled[p] += rows[at + 1] * key[a * RUNS + r].y;
          out[p] += rows[at + 1] * query[a * RUNS + r].y;
          recalled[p] += rows[at + 2] * key[a * RUNS + r].z;
          out[p] += rows[at + 2] * query[a * RUNS + r].z;
          recalled[p] += rows[at + 3] * key[a * RUNS + r].w;
          out[p] += rows[at + 3] * query[a * RUNS + r].w;
        }
      }
      #pragma unroll
      for (int step = 1; step < LANES; step *= 2) {
        #pragma unroll
        for (int p = 0; p < PASSES; ++p) {
          recalled[p] += simd_shuffle_xor(recalled[p], static_cast<ushort>(step));
          out[p] += simd_shuffle_xor(out[p], static_cast<ushort>(step));
        }
      }
      #pragma unroll
      for (int p = 0; p < PASSES; ++p) {
        const float delta = (value[a * PASSES + p] - fade[a] * recalled[p]) * rate[a];
        #pragma unroll
        for (int r = 0; r < RUNS; ++r) {
          const int at = p * COLUMNS + 4 * r;
          rows[at] = fade[a] * rows[at] + delta * key[a * RUNS + r].x;
          rows[at + 1] = fade[a] * rows[at + 1] + delta * key[a * RUNS + r].y;
          rows[at + 2] = fade[a] * rows[at + 2] + delta * key[a * RUNS + r].z;
          rows[at + 3] = fade[a] * rows[at + 3] + delta * key[a * RUNS + r].w;
        }
        // S q after the update, from the products with the state as it was.
        if (lane % LANES == 0)
          said[static_cast<size_t>(t) * NV * DV + p * ABREAST] =
              fade[a] * out[p] + delta * along_query[a];
      }
    }
    const size_t next = static_cast<size_t>(t + AHEAD);
    if (t + AHEAD < tokens) {
      #pragma unroll
      for (int r = 0; r < RUNS; ++r) {
        query[a * RUNS + r] =
            *reinterpret_cast<const device float4*>(queries + next * NK * DK + r * LANES * 4);
        key[a * RUNS + r] =
            *reinterpret_cast<const device float4*>(keys + next * NK * DK + r * LANES * 4);
      }
      #pragma unroll
      for (int p = 0; p < PASSES; ++p)
        value[a * PASSES + p] = static_cast<float>(values[next * NV * DV + p * ABREAST]);
      fade[a] = static_cast<float>(decays[next * NV]);
      rate[a] = static_cast<float>(betas[next * NV]);
      along_query[a] = static_cast<float>(overlaps[next * NK]);
    }
  }
}

#pragma unroll
for (int p = 0; p < PASSES; ++p)
  #pragma unroll
  for (int c = 0; c < COLUMNS; ++c)
    state_out[(own + p * ABREAST) * DK + c / 4 * LANES * 4 + column + c % 4] = rows[p * COLUMNS + c];
