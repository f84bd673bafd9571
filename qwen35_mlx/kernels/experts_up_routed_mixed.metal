// experts_up_routed.metal where the shared expert's matrix has a format of its own.

#include "include_experts_up_begin.metal"
#include "include_route.metal"
if (first_output == 0 && simd_group == 0) {
#include "include_store_route.metal"
}
const bool is_chosen = lane < K && slot == first_output / I;
const int chosen = static_cast<int>(simd_max(is_chosen ? static_cast<float>(lane_expert) : 0.0f));
#include "include_experts_up_rows.metal"
if (routed) {
#include "include_routed_format.metal"
#include "include_expert_gates_and_ups.metal"
} else {
#include "include_shared_format.metal"
#include "include_expert_gates_and_ups.metal"
}
#include "include_experts_up_end.metal"
