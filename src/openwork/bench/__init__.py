"""Speed, measured: interleaved runs in one process, medians, and ratios of runs that were neighbours in time."""

from openwork.bench.attention import bench_attention
from openwork.bench.inference import bench_inference
from openwork.bench.products import bench_kernels, bench_topk, crossovers
from openwork.bench.training import bench_training
from openwork.bench.twins import bench_twins

__all__ = [
    "bench_attention",
    "bench_inference",
    "bench_kernels",
    "bench_topk",
    "bench_training",
    "bench_twins",
    "crossovers",
]
