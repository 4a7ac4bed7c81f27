"""The share of a training step that both selections take, by a sampling profiler.

    python benchmarks/selection_share.py [--layers 4] [--d-model 256] [--density 1/64] [--mode exact]

AbsTopK happens inside other kernels, where PyTorch's profiler does not see it; `perf` (linux-perf) does. Counts as the
selection of activations what chooses them and what passes their gradient on, not the GELU between; as that of weights
what `keep_topk_each_` does and calls. In fast mode no step of these refreshes.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from openwork.bench.training import stepper
from openwork.config import number
from openwork.errors import UserError
from openwork.memory import keep_freed_memory
from openwork.model import ModelConfig
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig

SECONDS, WARM, NEVER = 15, 5, 10**6
KINDS = {
    "selection of activations": r"one_row|keep_slopes|(?<!gelu_)abs_topk",
    "selection of weights": r"keep_in|keep_topk|protect_|_of_few|few_of|find_digit|find_key|gather\(|clear\(",
}
"""Parts of the names of functions in the compiled kernels."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--density", type=lambda text: number(text, "--density"), default=1 / 64)
    parser.add_argument("--mode", choices=("exact", "fast"), default="exact")
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
    shares = sampled_shares(stepper(config, batch))
    for kind in KINDS:
        print(f"{kind:24} {shares[kind]:6.1%}")
    print(f"{'both':24} {sum(shares[kind] for kind in KINDS):6.1%}")


def sampled_shares(step: Callable[[int], object]) -> Counter[str]:
    """The share of each kind in the time of all threads of this process while it takes steps."""
    for n in range(WARM):
        step(n)
    with tempfile.TemporaryDirectory() as directory:
        samples = Path(directory) / "samples"
        command = ["perf", "record", "-q", "-F", "2000", "-e", "cpu-clock", "-p", str(os.getpid()), "-o", str(samples)]
        try:
            recorder = subprocess.Popen(command)
        except FileNotFoundError:
            raise UserError("there is no perf here; install it (Debian: linux-perf)") from None
        end = time.monotonic() + SECONDS
        for n in range(WARM, NEVER):
            step(n)
            if time.monotonic() > end or recorder.poll() is not None:
                break
        recorder.send_signal(signal.SIGINT)
        recorder.wait()
        report = ["perf", "report", "-i", str(samples), "--no-children", "--stdio", "-F", "overhead,dso,symbol"]
        done = subprocess.run(report, capture_output=True, text=True)
    lines = re.findall(r"^ *([\d.]+)% +(\S+) +\[\S\] (.+?) *$", done.stdout, re.MULTILINE)
    if not lines:
        raise UserError(f"perf took no samples; it says: {done.stderr.strip()}")
    shares: Counter[str] = Counter()
    for percent, library, symbol in lines:
        kind = next((kind for kind, names in KINDS.items() if re.search(names, symbol)), "all else")
        shares[kind if library == "_native.so" else "all else"] += float(percent) / 100
    if len(shares) == 1:
        raise UserError("perf saw no function that selects; were the kernels compiled (`openwork bench kernels` says)?")
    return shares


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"selection_share: {error}") from None
