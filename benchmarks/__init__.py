"""Benchmarks against named peers: ``python -m benchmarks surface [--quick]`` prints one JSON line a row."""
