"""Where the time of a training step goes, by kind of work.

    python benchmarks/step_profile.py [--layers 4] [--d-model 256] [--density 1/64] [--mode fast]

Shares of the time that PyTorch's profiler counts in operators, over ten steps (in fast mode none of them refreshes).
The profiler itself adds a few microseconds to each operator.
"""

from __future__ import annotations

import argparse
from collections import Counter

import torch
from torch.profiler import ProfilerActivity, profile

from openwork.bench.training import stepper
from openwork.config import number
from openwork.kernels import keep_freed_memory
from openwork.model import ModelConfig
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig

REFRESH_EVERY, FIRST = 100, 2
KINDS = {
    "sparse products": ("_SparseLinear", "_SparseLinearBackward", "_ExactLinear", "_ExactLinearBackward"),
    "dense products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("_Attention", "_AttentionBackward"),
    "AbsTopK": ("_AbsTopK", "_AbsTopKBackward"),
    "GELU with AbsTopK": ("_GELUAbsTopK", "_GELUAbsTopKBackward"),
    "norms": ("_RMSNorm", "_RMSNormBackward"),
    "cross-entropy": ("_CrossEntropy", "_CrossEntropyBackward"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--density", type=lambda text: number(text, "--density"), default=1 / 64)
    parser.add_argument("--mode", choices=("exact", "fast"), default="fast")
    options = parser.parse_args()
    keep_freed_memory()
    config = TrainConfig(
        model=ModelConfig(n_layers=options.layers, d_model=options.d_model, n_ctx=256),
        sparsity=SparsityConfig(density=options.density, anneal_start=0, anneal_end=0),
        batch_size=4,
        mode=options.mode,
        refresh_every=REFRESH_EVERY,
    )
    step = stepper(config, torch.randint(0, 2048, (4, 257), generator=torch.Generator().manual_seed(0)))
    for n in range(1, FIRST):
        step(n)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for n in range(FIRST, FIRST + 10):
            step(n)
    kinds = {name: kind for kind, names in KINDS.items() for name in names}
    time: Counter[str] = Counter()
    for event in profiler.key_averages():
        time[kinds.get(event.key, "all else")] += event.self_cpu_time_total
    for kind, spent in time.most_common():
        print(f"{kind:20} {spent / time.total():6.1%}")


if __name__ == "__main__":
    main()
