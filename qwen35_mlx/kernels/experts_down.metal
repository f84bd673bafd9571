// The down projections of each token's experts and of the shared one, weighted, summed, and added
// to the residual.
//
// Launch: N * ceil(H / OUTPUTS) threadgroups of SIMD_GROUPS SIMD groups, OUTPUTS outputs of one
// token each; neighbours have the same outputs of all tokens, as in experts_up.metal. The chunks of
// a row in all experts, one expert after the other, are dealt out to the threads.
//
// h        [N, K I + IS] float32, from experts_up.metal
// experts  [N, K] uint32
// weights  [N, K + 1] float32, the last one the shared expert's
// w        [E, H, I]; scales, biases [E, H, I / ROUTED_GS]
// shared_w [H, IS]; shared_scales, shared_biases [H, IS / SHARED_GS]
//          Both in the same format of include_packed_format.metal
// residual [N, H]
// -> y     [N, H]   residual + the sum, which is rounded before

#include "include_experts_down_begin.metal"
for (int item = thread_index; item < TOTAL_CHUNKS; item += THREADS) {
#include "include_experts_down_item.metal"
#include "include_routed_format.metal"
#include "include_expert_downs.metal"
}
#include "include_experts_down_end.metal"
