"""The delta recurrence and the experts: references, and the kernels beside them."""
