"""What the benchmarks and the tests share: random weights, kernel inputs, a terminal, reports."""
