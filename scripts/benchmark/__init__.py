"""Benchmarks of throughput, latency, CPU time, memory and disk use."""
