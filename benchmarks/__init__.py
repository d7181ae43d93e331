"""Benchmarks that compare the gateway with its alternatives. README.md says how to run and read them."""
