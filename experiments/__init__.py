"""Benchmarks and studies; not part of the installed package."""
