"""The reference model over seeds: sparse models by its recipe, and the circuit of every task that each of them can do.

    python benchmarks/reference_seeds.py [--seeds 1,2] [--shared] [--work runs/reference]

Seed 0 is `reference-sparse` with the circuits that come with it. The others are trained here, about 90 minutes each on
one thread, and pruned as it was, one task a process. Beside the circuits' sizes and cards stands how many times more
edges the dense model's circuits have. What is there is not made again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from reference_pair import CONFIGS, SOURCE, TARGET, alone, measure
from rich.console import Console

from openwork import tasks
from openwork.artifacts import write_atomically
from openwork.cli.output import print_rows
from openwork.corpus import build_corpus
from openwork.errors import UserError
from openwork.frontier.compare import CAN_DO
from openwork.models import circuits, load_model, path
from openwork.progress import corpus_progress, training_progress
from openwork.pruning import load_circuit
from openwork.tasks.survey import try_tasks
from openwork.training import read_metrics, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/reference"))
    parser.add_argument("--seeds", type=lambda text: [int(part) for part in text.split(",")], default=[1, 2])
    parser.add_argument("--shared", action="store_true", help="Only the tasks that the dense model can do too.")
    options = parser.parse_args()
    console = Console()
    with corpus_progress(console) as progress:
        corpus = build_corpus(SOURCE, options.work / "corpus", progress=progress)
    others = {seed: options.work / "seeds" / str(seed) for seed in options.seeds if seed != 0}
    models = {0: path("reference-sparse")} | others
    for seed, model in models.items():
        if not (model / "config.json").is_file():
            with training_progress(console) as report:
                train(corpus, replace(CONFIGS["sparse"], seed=seed), model, report)
    unpruned = {seed: losses(model) for seed, model in models.items()}
    other = load_model(path("reference-dense"))
    dense = {task: len(load_circuit(file, other).edges) for task, file in circuits(path("reference-dense")).items()}
    order = [task for task in tasks.names() if task in dense or not options.shared]
    todo = [(seed, task) for task in order for seed in models if unpruned[seed][task]["loss"] < CAN_DO]
    found: dict[int, dict[str, dict[str, Any]]] = {seed: {} for seed in models}
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=alone) as pool:
        jobs = pool.map(measure, [models[seed] for seed, _ in todo], [task for _, task in todo])
        for (seed, task), numbers in zip(todo, jobs, strict=True):
            found[seed][task] = numbers
            console.print(f"seed {seed}, {task}: {numbers['edges']} edges")
    print_rows("edges, and the loss on held-out templates", [by_task(task, found, unpruned, dense) for task in order])
    summary = [
        of_seed(seed, read_metrics(model)[-1], found[seed], unpruned[seed], dense) for seed, model in models.items()
    ]
    print_rows(f"circuits at {TARGET} nats; sparse / dense", summary)
    numbers = {"unpruned": unpruned, "found": found, "seeds": summary}
    write_atomically(options.work / "seeds.json", json.dumps(numbers, indent=2) + "\n")


def losses(directory: Path) -> dict[str, dict[str, float]]:
    """The unpruned loss of every task, of its validation and its held-out templates; measured once a model."""
    kept = directory / "tasks.json"
    if directory == path("reference-sparse"):
        return json.loads((directory / "config.json").read_text())["about"]["tasks"]
    if not kept.is_file():
        rows = try_tasks(load_model(directory), tasks.names())
        measured = {row["task"]: {"loss": row["loss"], "held_out": row["held-out loss"]} for row in rows}
        write_atomically(kept, json.dumps(measured, indent=2) + "\n")
    return json.loads(kept.read_text())


def by_task(
    task: str, found: dict[int, dict[str, dict[str, Any]]], unpruned: dict[int, dict[str, Any]], dense: dict[str, int]
) -> dict[str, Any]:
    """One row for a task: its circuits' edges and held-out losses, seed by seed."""
    row: dict[str, Any] = {"task": task}
    for seed, numbers in found.items():
        if task not in numbers:
            row[f"seed {seed}"] = f"not done ({unpruned[seed][task]['loss']:.2f})"
        elif not numbers[task]["reached"]:
            row[f"seed {seed}"] = f"missed ({numbers[task]['loss']:.3f})"
        else:
            row[f"seed {seed}"] = f"{numbers[task]['edges']}, held-out {numbers[task]['held_out']:.3f}"
    return {**row, "dense": dense.get(task, "")}


def of_seed(
    seed: int, last: dict[str, Any], found: dict[str, Any], unpruned: dict[str, Any], dense: dict[str, int]
) -> dict[str, Any]:
    """One row for a seed: its tasks, and its circuits beside those of the dense model."""
    reached = {task: numbers for task, numbers in found.items() if numbers["reached"]}
    shared = [task for task in reached if task in dense]
    edges = geometric_mean(max(1, reached[task]["edges"]) for task in shared) if shared else math.nan
    of_dense = geometric_mean(dense[task] for task in shared) if shared else math.nan
    return {
        "seed": seed,
        "validation loss": last["validation_loss"],
        "tasks done": sum(losses["loss"] < CAN_DO for losses in unpruned.values()),
        "circuits": len(reached),
        "median edges": median(numbers["edges"] for numbers in reached.values()) if reached else math.nan,
        "0.1 worse held-out": ", ".join(t for t, n in reached.items() if n["held_out"] > n["loss"] + 0.1),
        "shared tasks": len(shared),
        "edges": f"{edges:.1f} / {of_dense:.1f}",
        "times": of_dense / edges,
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"reference_seeds: {error}") from None
    except (BrokenProcessPool, KeyboardInterrupt):
        raise SystemExit("reference_seeds: stopped; the same command goes on from there") from None
