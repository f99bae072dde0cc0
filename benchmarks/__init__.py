"""Benchmarks: suites of runs, their statistics and reports; and programs that measure one thing each."""
