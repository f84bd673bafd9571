// experts_up.metal that finds the experts of its token itself, in every SIMD group: each of them runs
// experts_route.metal, which takes as long as its launch but needs none.
//
// As there, but for
//
// logits      [N, E + 1], the router's, then the shared expert's gate
// -> weights  [N, K + 1] float32, experts [N, K] uint32: those of experts_route.metal

#include "include_experts_up_begin.metal"
#include "include_route.metal"
if (first_output == 0 && simd_group == 0) {
#include "include_store_route.metal"
}
const bool is_chosen = lane < K && slot == first_output / I;
const int chosen = static_cast<int>(simd_max(is_chosen ? static_cast<float>(lane_expert) : 0.0f));
#include "include_experts_up_rows.metal"
{
#include "include_routed_format.metal"
#include "include_expert_gates_and_ups.metal"
}
#include "include_experts_up_end.metal"
