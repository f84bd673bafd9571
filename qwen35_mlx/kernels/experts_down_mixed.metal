// experts_down.metal where the shared expert's matrix has a format of its own.

#include "include_experts_down_begin.metal"
for (int item = thread_index; item < TOTAL_CHUNKS; item += THREADS) {
#include "include_experts_down_item.metal"
  if (routed) {
#include "include_routed_format.metal"
#include "include_expert_downs.metal"
  } else {
#include "include_shared_format.metal"
#include "include_expert_downs.metal"
  }
}
#include "include_experts_down_end.metal"
