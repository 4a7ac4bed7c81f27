"""What a whole training run costs, not only its steps at the final density: annealing begins with dense weights.

    python benchmarks/whole_run.py [--layers 4] [--d-model 256] [--density 1/64] [--anneal-ends 0.5,0.1]

Steps are timed at seven densities of the schedule, interleaved in one process, and summed over the schedule (the
trapezoidal rule) for both modes and each share of the run in which the density falls. Fast mode is exact mode until
then, and until `TrainConfig.fast_from`. The naive method and dense training, which cost the same all along, are timed
at the final density.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from statistics import median

import torch

from openwork.bench.plain import plain_stepper
from openwork.bench.timing import interleave
from openwork.bench.training import stepper
from openwork.cli.output import print_rows
from openwork.config import number
from openwork.errors import UserError
from openwork.memory import keep_freed_memory
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig, density_at
from openwork.training import TrainConfig

POINTS = 7


def main() -> None:
    options = parse()
    for end in options.anneal_ends:
        SparsityConfig(anneal_end=end)  # refuses what is no fraction of a run
    keep_freed_memory()  # as `train` does
    shape = ModelConfig(n_layers=options.layers, d_model=options.d_model, n_ctx=options.context)
    final = TrainConfig(
        model=shape,
        sparsity=SparsityConfig(density=options.density, anneal_start=0, anneal_end=0),
        batch_size=options.batch_size,
    )
    dense = replace(final, model=replace(shape, activation_fraction=1.0), sparsity=SparsityConfig(density=1))
    batch = torch.randint(
        0, shape.d_vocab, (final.batch_size, shape.n_ctx + 1), generator=torch.Generator().manual_seed(0)
    )
    fast, refresh_every = stepper(replace(final, mode="fast"), batch), final.refresh_every
    schedule = replace(final.sparsity, anneal_end=1)
    densities = [density_at(point / (POINTS - 1), schedule) for point in range(POINTS)]
    ways: dict[str, Callable[[], object]] = {
        "naive": numbered(plain_stepper(Transformer(shape), final, batch), 1),
        "dense": numbered(plain_stepper(Transformer(dense.model), dense, batch), 1),
        "refresh": numbered(fast, refresh_every),
        "between": numbered(fast, refresh_every + 1),
    }
    for density in densities:
        sparsity = replace(final.sparsity, density=density)
        ways[f"exact at 1/{1 / density:.3g}"] = numbered(stepper(replace(final, sparsity=sparsity), batch), 1)
    seconds = {way: median(taken) for way, taken in interleave(ways, options.rounds).items()}
    tokens = final.batch_size * shape.n_ctx
    print_rows("steps", [{"step": way, "tokens/s": round(tokens / taken)} for way, taken in seconds.items()])

    exact = [taken for way, taken in seconds.items() if way.startswith("exact")]
    annealing = (sum(exact) - (exact[0] + exact[-1]) / 2) / (POINTS - 1)
    of_fast = seconds["between"] + (seconds["refresh"] - seconds["between"]) / refresh_every
    rows = []
    for mode, after, begins in (("exact", exact[-1], 0.0), ("fast", of_fast, final.fast_from)):
        for end in options.anneal_ends:
            exact_until = max(begins, end)
            taken = end * annealing + (exact_until - end) * exact[-1] + (1 - exact_until) * after
            rows.append(
                {
                    "mode": mode,
                    "annealing until": end,
                    "tokens/s": round(tokens / taken),
                    "times naive": seconds["naive"] / taken,
                    "times dense": seconds["dense"] / taken,
                }
            )
    title = f"whole runs: {shape.n_layers} layers, d_model {shape.d_model}, density 1/{1 / options.density:.3g}"
    print_rows(title, rows)
    print(json.dumps({"seconds": seconds, "runs": rows}))


def numbered(step: Callable[[int], object], n: int) -> Callable[[], object]:
    """The step number `n`, as a way to time."""
    return lambda: step(n)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--density", type=lambda text: number(text, "--density"), default=1 / 64)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--anneal-ends", type=lambda text: [float(part) for part in text.split(",")], default=[0.5, 0.1]
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"whole_run: {error}") from None
