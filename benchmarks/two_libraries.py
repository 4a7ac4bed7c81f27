"""How much faster a training step is, kernel by kernel, with one build of the compiled kernels than with another.

    git worktree add BEFORE COMMIT && python BEFORE/src/openwork/kernels/build.py
    python benchmarks/two_libraries.py BEFORE/src/openwork/kernels/_native.so [--layers 4] [--d-model 256] [--mode fast]

Steps with either library in turns, in one process; medians of the times of the older one, and of the ratios within
rounds. The kernels of both must have the same signatures.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from openwork.bench.training import stepper
from openwork.config import number
from openwork.kernels import build, library
from openwork.memory import keep_freed_memory
from openwork.model import ModelConfig
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig

NEVER = 10**6
"""`refresh_every`, so that no step of fast mode refreshes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other library")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--density", type=lambda text: number(text, "--density"), default=1 / 64)
    parser.add_argument("--mode", choices=("exact", "fast"), default="fast")
    parser.add_argument("--rounds", type=int, default=16)
    options = parser.parse_args()
    keep_freed_memory()
    config = TrainConfig(
        model=ModelConfig(n_layers=options.layers, d_model=options.d_model, n_ctx=256),
        sparsity=SparsityConfig(density=options.density, anneal_start=0, anneal_end=0),
        batch_size=4,
        mode=options.mode,
        refresh_every=NEVER,
    )
    batch = torch.randint(0, 2048, (4, 257), generator=torch.Generator().manual_seed(0))
    spent: Counter[str] = Counter()
    kernels = [timed(path, spent) for path in (options.before.resolve(), build.HERE / build.LIBRARY)]
    step = stepper(config, batch)
    rounds: list[list[Counter[str]]] = []
    for n in range(options.rounds + 1):
        each = [Counter[str](), Counter[str]()]
        for which in (0, 1) if n % 2 else (1, 0):
            library._functions.update(kernels[which])
            spent.clear()
            began = time.perf_counter()
            step(1 + 2 * n + which)
            each[which].update(spent, step=time.perf_counter() - began)
        rounds.append(each)
    report(rounds[1:])


def timed(path: Path, spent: Counter[str]) -> dict[str, Callable[..., Any]]:
    """The kernels of a library, each of which adds the seconds that it takes to `spent`."""
    opened = ctypes.CDLL(str(path))
    opened.openwork_set_fork.argtypes = [ctypes.c_void_p]
    opened.openwork_set_fork(library._fork())
    return {name: timed_kernel(opened, name, spent) for name in library._SIGNATURES}


def timed_kernel(opened: ctypes.CDLL, name: str, spent: Counter[str]) -> Callable[..., Any]:
    kernel = getattr(opened, f"openwork_{name}")
    kernel.restype, kernel.argtypes = library._SIGNATURES[name]

    def call(*arguments: Any) -> Any:
        began = time.perf_counter()
        result = kernel(*arguments)
        spent[name] += time.perf_counter() - began
        return result

    return call


def report(rounds: list[list[Counter[str]]]) -> None:
    before = {name: median(old[name] for old, _ in rounds) for name in rounds[0][0]}
    print(f"{'':30} {'ms':>8} {'times faster':>13}")
    for name, seconds in sorted(before.items(), key=lambda item: -item[1]):
        print(f"{name:30} {1e3 * seconds:8.2f} {median(old[name] / new[name] for old, new in rounds):13.2f}")


if __name__ == "__main__":
    main()
