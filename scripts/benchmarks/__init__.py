"""Benchmarks, run as `python -m scripts.benchmarks.NAME`; each prints a table and one JSON line."""
