"""The reference pair over seeds: both models by their recipes, and the circuit of every task that each of them can do.

    python benchmarks/reference_seeds.py [--sparse 1 2 ...] [--dense 1 2 ...] [--work runs/reference]

Seed 0 are the models that come with the package, with their circuits. The others are trained here, the sparse one in
about 90 minutes of one thread, the dense one in 15, and pruned as those were, one task a process. Printed are the edges
of every circuit, how many times more of them the dense models' circuits have, each sparse model against each dense one,
and what the cards say. What is there is not made again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import math
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import geometric_mean, median
from typing import Any

from reference_pair import CONFIGS, SEARCH, SOURCE, alone, measure
from rich.console import Console

from openwork import tasks
from openwork.cli.output import print_rows
from openwork.corpus import Corpus, build_corpus
from openwork.errors import UserError
from openwork.files import write_atomically
from openwork.frontier.compare import CAN_DO, SIDES
from openwork.models import load_model, path
from openwork.progress import corpus_progress, training_progress
from openwork.tasks.survey import try_tasks
from openwork.training import last_validation_loss, train


@dataclass
class Trained:
    """One model: where it is, its loss on every task, and what was measured of its circuits (`measure`)."""

    name: str
    directory: Path
    unpruned: dict[str, float]
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def reached(self) -> dict[str, dict[str, Any]]:
        """The circuits that reached their target, by task."""
        return {task: numbers for task, numbers in self.found.items() if numbers["reached"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/reference"))
    for side in SIDES:
        parser.add_argument(
            f"--{side}", type=int, nargs="+", default=[1], metavar="SEED", help=f"Seeds of {side} models, besides 0."
        )
    options = parser.parse_args()
    console = Console()
    with corpus_progress(console) as progress:
        corpus = build_corpus(SOURCE, options.work / "corpus", progress=progress)
    seeds = {side: sorted({0, *getattr(options, side)}) for side in SIDES}
    sides = {side: [trained(side, seed, options.work, corpus, console) for seed in seeds[side]] for side in SIDES}
    models = [model for side in SIDES for model in sides[side]]
    todo = [(model, task) for task in tasks.names() for model in models if model.unpruned[task] < CAN_DO]
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=alone) as pool:
        jobs = pool.map(measure, [model.directory for model, _ in todo], [task for _, task in todo])
        for (model, task), numbers in zip(todo, jobs, strict=True):
            model.found[task] = numbers
            console.print(f"{model.name}, {task}: {numbers['edges']} edges")
    print_rows("edges", [by_task(task, models) for task in tasks.names() if any(task in m.found for m in models)])
    pairs = [pair(sparse, dense, models) for sparse, dense in product(sides["sparse"], sides["dense"])]
    print_rows(f"sparse / dense, circuits at {SEARCH.target} nats; geometric means", pairs)
    summary = [of_model(model) for model in models]
    print_rows(f"circuits at {SEARCH.target} nats", summary)
    of_each = {model.name: {"unpruned": model.unpruned, "found": model.found} for model in models}
    numbers = {"models": of_each, "pairs": pairs, "summary": summary}
    write_atomically(options.work / "seeds.json", json.dumps(numbers, indent=2) + "\n")


def trained(side: str, seed: int, work: Path, corpus: Corpus, console: Console) -> Trained:
    """The model of this seed, trained if it is not there, and its loss on every task, measured once."""
    if seed == 0:
        directory = path(f"reference-{side}")
        measured = json.loads((directory / "config.json").read_text())["about"]["tasks"]
        return Trained(f"{side} {seed}", directory, {task: losses["loss"] for task, losses in measured.items()})
    directory = work / "seeds" / str(seed) / side
    if not (directory / "config.json").is_file():
        with training_progress(console) as report:
            train(corpus, replace(CONFIGS[side], seed=seed), directory, report)
    kept = directory / "tasks.json"
    if not kept.is_file():
        losses = {row["task"]: row["loss"] for row in try_tasks(load_model(directory), tasks.names())}
        write_atomically(kept, json.dumps(losses, indent=2) + "\n")
    return Trained(f"{side} {seed}", directory, json.loads(kept.read_text()))


def by_task(task: str, models: list[Trained]) -> dict[str, Any]:
    """One row for a task: the edges of its circuit in each model."""
    row: dict[str, Any] = {"task": task}
    for model in models:
        if task not in model.found:
            row[model.name] = f"not done ({model.unpruned[task]:.2f})"
        elif task not in model.reached:
            row[model.name] = f"missed ({model.found[task]['loss']:.3f})"
        else:
            row[model.name] = model.found[task]["edges"]
    return row


def pair(sparse: Trained, dense: Trained, models: list[Trained]) -> dict[str, Any]:
    """One row for a sparse model against a dense one, on the tasks of both and on those of all models."""
    both = [task for task in sparse.reached if task in dense.reached]
    every = [task for task in both if all(task in model.reached for model in models)]
    row: dict[str, Any] = {"pair": f"{sparse.name}, {dense.name}", "tasks": len(both)}
    for kind in ("edges", "nodes"):
        one, other = mean(sparse, kind, both), mean(dense, kind, both)
        row |= {kind: f"{one:.1f} / {other:.1f}", f"times, {kind}": other / one}
    times = mean(dense, "edges", every) / mean(sparse, "edges", every)
    return {**row, "tasks of all": len(every), "times, edges of these": times}


def mean(model: Trained, kind: str, names: list[str]) -> float:
    """The geometric mean of the circuits' edges or nodes over some tasks; not a number over none."""
    return geometric_mean(max(1, model.reached[name][kind]) for name in names) if names else math.nan


def of_model(model: Trained) -> dict[str, Any]:
    """One row for a model: what it can do, how large its circuits are, and how many of them each check says no to."""
    reached = model.reached.values()
    says_no = [check for numbers in reached for check in numbers["says_no"]]
    return {
        "model": model.name,
        "validation loss": last_validation_loss(model.directory),
        "tasks done": len(model.found),
        "circuits": len(reached),
        "median edges": median(numbers["edges"] for numbers in reached) if reached else math.nan,
        "median scale": median(numbers["scale"] for numbers in reached) if reached else math.nan,
        "0.1 worse held-out": ", ".join(t for t, n in model.reached.items() if n["held_out"] > n["loss"] + 0.1),
        "checks that say no": "; ".join(f"{check} {says_no.count(check)}" for check in dict.fromkeys(says_no)),
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"reference_seeds: {error}") from None
    except (BrokenProcessPool, KeyboardInterrupt):
        raise SystemExit("reference_seeds: stopped; the same command goes on from there") from None
