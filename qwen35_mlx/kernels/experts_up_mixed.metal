// experts_up.metal where the shared expert's matrix has a format of its own.

#include "include_experts_up_begin.metal"
const int chosen = routed ? static_cast<int>(experts[token * K + first_output / I]) : 0;
#include "include_experts_up_rows.metal"
if (routed) {
#include "include_routed_format.metal"
#include "include_expert_gates_and_ups.metal"
} else {
#include "include_shared_format.metal"
#include "include_expert_gates_and_ups.metal"
}
#include "include_experts_up_end.metal"
