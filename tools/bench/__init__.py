"""Benchmarks: what a stage costs, as a ratio to the least that its work can cost."""
