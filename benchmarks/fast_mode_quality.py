"""Quality of fast mode against exact mode: same data, same steps, several seeds, widths and densities.

    python benchmarks/fast_mode_quality.py CORPUS OUT [--tokens 5_000_000] [--widths 256,512] [--densities 1/16,1/64]
        [--device cuda --workers 4]

Every run lies in its own directory below OUT: stopped, the script goes on where it was, and a finished run is not made
again. With --workers that many runs go on at once, each in its own process; their times are then not of use.
OUT/quality.json gets, for every width and density, the validation losses of both modes by seed, their difference, the
losses of all tasks, the time of training, and when fast mode reached exact mode's final loss.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from openwork.config import number
from openwork.corpus import Corpus, open_corpus
from openwork.errors import UserError
from openwork.files import write_atomically
from openwork.model import ModelConfig
from openwork.models import load_model
from openwork.sparsity import SparsityConfig
from openwork.tasks import names
from openwork.tasks.survey import try_tasks
from openwork.training import Interrupted, TrainConfig, read_metrics, train

Mode = Literal["exact", "fast"]
MAIN_TASKS = ("single_double_quote", "set_or_string", "class_init", "while_return_true", "bracket_counting")
"""Those that are asked to hold."""


@dataclass(frozen=True)
class Run:
    """One training run of the comparison."""

    mode: Mode
    width: int
    density: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.width}-{round(1 / self.density)}-{self.seed}"


def main() -> None:
    options = parse()
    corpus, out = open_corpus(options.corpus), Path(options.out)
    cells = list(itertools.product(options.widths, options.densities))
    if options.workers > 1:
        runs = [Run(mode, *cell, seed) for seed in range(options.seeds) for cell in cells for mode in ("exact", "fast")]
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            try:
                list(pool.map(partial(measure_or_leave, corpus, out=out, options=options), runs))
            except (BrokenProcessPool, KeyboardInterrupt):
                raise UserError("stopped; the same command goes on from there") from None
    results = []
    for width, density in cells:
        runs = {
            mode: [measure(corpus, Run(mode, width, density, seed), out, options) for seed in range(options.seeds)]
            for mode in ("exact", "fast")
        }
        results.append({"d_model": width, "density": density, **compare(runs["exact"], runs["fast"])})
        write_atomically(
            out / "quality.json", json.dumps({"settings": vars(options), "results": results}, indent=2) + "\n"
        )
        print(json.dumps({k: v for k, v in results[-1].items() if k != "tasks"}))


def measure(corpus: Corpus, run: Run, out: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Train `run`, or find it trained, and measure it."""
    path, measured = out / run.name, out / run.name / "measured.json"
    if measured.is_file():
        return json.loads(measured.read_text())
    config = TrainConfig(
        model=ModelConfig(n_layers=options.layers, d_model=run.width, n_ctx=options.context),
        sparsity=SparsityConfig(density=run.density, anneal_end=options.anneal_end, floor=options.floor),
        tokens=options.tokens,
        batch_size=options.batch_size,
        seed=run.seed,
        mode=run.mode,
        refresh_every=options.refresh_every,
        fast_from=options.fast_from,
        validate_every=options.validate_every,
        device=options.device,
        precision="float32",
    )
    train(corpus, config, path)
    lines = read_metrics(path)
    seconds = list(itertools.accumulate(config.tokens_per_step / line["tokens_per_second"] for line in lines))
    validations = [
        {"tokens": line["tokens"], "seconds": s, "loss": line["validation_loss"]}
        for line, s in zip(lines, seconds, strict=True)
        if "validation_loss" in line
    ]
    tasks = {row["task"]: row["loss"] for row in try_tasks(load_model(path), names()) if row["loss"] != ""}
    numbers = {"name": run.name, "loss": validations[-1]["loss"], "seconds": seconds[-1], "tasks": tasks}
    write_atomically(measured, json.dumps({**numbers, "validations": validations}, indent=2) + "\n")
    return json.loads(measured.read_text())


def measure_or_leave(corpus: Corpus, run: Run, out: Path, options: argparse.Namespace) -> None:
    """`measure` in a worker, which, once asked to stop, takes no other run and ends the pool."""
    try:
        measure(corpus, run, out, options)
    except Interrupted as error:
        print(f"{run.name}: {error}", flush=True)
        os._exit(1)


def compare(exact: list[dict[str, Any]], fast: list[dict[str, Any]]) -> dict[str, Any]:
    """Fast mode against exact mode, over seeds: a task holds if its mean is worse by no more than the seeds' spread."""
    difference = mean(run["loss"] for run in fast) - mean(run["loss"] for run in exact)
    reached = [time_to(f, e["loss"]) for e, f in zip(exact, fast, strict=True)]
    tasks = {}
    for task in exact[0]["tasks"]:
        theirs, ours = ([run["tasks"][task] for run in runs] for runs in (exact, fast))
        worse, spread = mean(ours) - mean(theirs), max(theirs) - min(theirs)
        tasks[task] = {"exact": theirs, "fast": ours, "worse_by": worse, "spread": spread, "holds": worse <= spread}
    return {
        "exact": [run["loss"] for run in exact],
        "fast": [run["loss"] for run in fast],
        "difference": difference,
        "within_0.02_nats": difference <= 0.02,
        "tasks_hold": all(task["holds"] for task in tasks.values()),
        "main_tasks_hold": all(tasks[task]["holds"] for task in MAIN_TASKS),
        "seconds_exact": [run["seconds"] for run in exact],
        "seconds_fast": [run["seconds"] for run in fast],
        "time_to_exact_loss": [None if r is None else r / e["seconds"] for r, e in zip(reached, exact, strict=True)],
        "tasks": tasks,
    }


def time_to(run: dict[str, Any], loss: float) -> float | None:
    """Seconds of training until the validation loss was at most `loss`; None if it never was."""
    return next((point["seconds"] for point in run["validations"] if point["loss"] <= loss), None)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus")
    parser.add_argument("out")
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--floor", type=int, default=4)
    parser.add_argument("--anneal-end", type=float, default=0.5)
    parser.add_argument("--refresh-every", type=int, default=TrainConfig.refresh_every)
    parser.add_argument("--fast-from", type=float, default=TrainConfig.fast_from)
    parser.add_argument("--validate-every", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--widths", type=lambda text: [int(part) for part in text.split(",")], default=[256, 512])
    densities = [1 / 16, 1 / 64]
    parser.add_argument(
        "--densities", type=lambda t: [number(p, "--densities") for p in t.split(",")], default=densities
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"fast_mode_quality: {error}") from None
