"""How long should OpenMP's threads spin while they wait? Training steps by GOMP_SPINCOUNT, alone or beside others.

    python benchmarks/waiting_threads.py [--busy 1] [--rounds 3] [--spins 300000,10000,1000]

OpenMP reads the setting when it is loaded, so that every number is of a process of its own; 300000 is what it takes by
itself. Prints tokens per second for every round, then medians, and their ratios to the first setting within rounds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Literal

SHAPES: dict[str, tuple[int, int, int, int, float, Literal["exact", "fast"]]] = {
    "2 x 128, exact": (2, 128, 128, 16, 1 / 32, "exact"),
    "4 x 256, exact": (4, 256, 256, 4, 1 / 64, "exact"),
    "4 x 256, fast": (4, 256, 256, 4, 1 / 64, "fast"),
    "8 x 512, fast": (8, 512, 256, 4, 1 / 64, "fast"),
}
"""Layers, width, context, sequences per step, density and mode."""
SECONDS = 5.0


def main() -> None:
    options = parse()
    if options.measure:
        print(tokens_per_second(options.measure))
        return
    speed: dict[tuple[str, str], list[float]] = {}
    with busy_processes(options.busy):
        for number in range(options.rounds):
            for shape in SHAPES:
                for spin in options.spins:
                    environment = {**os.environ, "GOMP_SPINCOUNT": spin}
                    command = [sys.executable, __file__, "--measure", shape]
                    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
                    speed.setdefault((shape, spin), []).append(float(done.stdout))
                told = ", ".join(f"{spin}: {speed[shape, spin][-1]:,.0f}" for spin in options.spins)
                print(f"round {number}, {shape}: {told}", flush=True)
    for shape in SHAPES:
        first = speed[shape, options.spins[0]]
        for spin in options.spins:
            times = median(ours / theirs for ours, theirs in zip(speed[shape, spin], first, strict=True))
            print(f"{shape}, GOMP_SPINCOUNT={spin}: {median(speed[shape, spin]):,.0f} tokens/s, {times:.2f} times")


@contextmanager
def busy_processes(n: int) -> Iterator[None]:
    """Within, `n` other processes, each in a session of its own, take all the time that they get, and end with this."""
    forever = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"
    busy = [subprocess.Popen([sys.executable, "-c", forever], start_new_session=True) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()


def tokens_per_second(shape: str) -> float:
    """Of training steps at the final density, between two refreshes, for about `SECONDS`."""
    import torch

    from openwork.bench.training import stepper
    from openwork.memory import keep_freed_memory
    from openwork.model import ModelConfig
    from openwork.sparsity import SparsityConfig
    from openwork.training import TrainConfig

    keep_freed_memory()
    layers, width, context, batch_size, density, mode = SHAPES[shape]
    model = ModelConfig(n_layers=layers, d_model=width, n_ctx=context)
    sparsity = SparsityConfig(density=density, anneal_start=0, anneal_end=0)
    config = TrainConfig(model=model, sparsity=sparsity, batch_size=batch_size, mode=mode)
    batch = torch.randint(0, model.d_vocab, (batch_size, context + 1), generator=torch.Generator().manual_seed(0))
    step = stepper(config, batch)
    for _ in range(3):
        step(1)
    began, n = time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        step(1)
        n += 1
    return n * batch_size * context / (time.perf_counter() - began)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, default=0, help="Busy processes beside.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spins", type=lambda text: text.split(","), default=["300000", "10000", "1000"])
    parser.add_argument("--measure", choices=SHAPES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
