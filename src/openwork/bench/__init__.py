"""Speed, measured: interleaved runs in one process, medians, and ratios of runs that were neighbours in time."""

from openwork.bench.training import bench_training

__all__ = ["bench_training"]
