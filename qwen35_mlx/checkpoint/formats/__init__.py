"""Formats of quantised matrices: from the tensors of a module to a `Matrix`."""
