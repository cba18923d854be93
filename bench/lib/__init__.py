"""Library of the benchmarks: timing, checks, reports, plots and profiles."""
