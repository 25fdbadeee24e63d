"""Benchmarks: what this project adds over the plain thing, as ratios of times measured side by side."""
