"""Milliseconds to judge one circuit: without each of up to forty of its edges, as a clean-up tries them.

python benchmarks/judge_time.py MODEL CIRCUIT...
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from statistics import median

import torch

from openwork import tasks
from openwork.errors import UserError
from openwork.models import find, load_model
from openwork.pruning import load_circuit
from openwork.pruning.judge import Judge
from openwork.pruning.universe import Universe

ROUNDS = 5
TRIALS = 40


def main() -> None:
    if len(sys.argv) < 3:
        raise UserError("which model, and which circuits? python benchmarks/judge_time.py MODEL CIRCUIT...")
    model = load_model(find(sys.argv[1])).requires_grad_(False)
    for path in map(Path, sys.argv[2:]):
        circuit = load_circuit(path, model)
        universe = Universe.of(model, circuit.kept)
        pairs = tasks.get(circuit.task, model.tokenizer).pairs("train", 128, seed=4_000_000)
        judge = Judge(model, universe, circuit.ablation_values, pairs)
        edges = torch.randperm(universe.n_edges, generator=torch.Generator().manual_seed(0))[:TRIALS]
        without = torch.ones(len(edges), universe.n_edges).scatter(1, edges[:, None], 0.0)
        seconds = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            judge.losses(without)
            seconds.append((time.perf_counter() - began) / len(without))
        print(f"{circuit.task}: {universe.n_edges} edges, {1e3 * median(seconds):.1f} ms", flush=True)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"judge_time: {error}") from None
