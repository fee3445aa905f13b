"""Benchmarks that anyone can run again: `make bench` writes their tables under outputs/bench/."""
