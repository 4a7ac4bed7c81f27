"""The reference pair: one weight-sparse and one dense model of about the same validation loss, and their circuits.

    python benchmarks/reference_pair.py [--work runs/reference] [--side sparse|dense]

corpus -> both models -> weights rounded to bfloat16 -> `src/openwork/reference/` -> their circuits, with cards, for
every task that each can do, one task a process -> the comparison (`openwork compare --no-search`) on the tasks that
both can do. What is there is not made again, so that a run that was stopped goes on: to make a model again, move
`src/openwork/reference/sparse` or `.../dense` away, and WORK/sparse or WORK/dense if it is there. On two cores the
models take about two hours, and so do the circuits.
"""

from __future__ import annotations

import argparse
import json
import signal
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from openwork import tasks
from openwork.artifacts import load_card
from openwork.cli.output import print_rows
from openwork.corpus import Corpus, build_corpus
from openwork.errors import UserError
from openwork.faithfulness import verify
from openwork.files import write_atomically
from openwork.frontier import compare, draw_comparison
from openwork.frontier.compare import CAN_DO, SIDES
from openwork.model import ModelConfig
from openwork.models import CIRCUITS, circuits, load_model, path, round_weights, save_model
from openwork.progress import corpus_progress, training_progress
from openwork.pruning import PruneConfig, load_circuit, prune
from openwork.sparsity import SparsityConfig
from openwork.tasks.survey import try_tasks
from openwork.training import TrainConfig, corpus_means, read_metrics, train
from openwork.training.card import write_card
from openwork.training.loop import validation_batches, validation_loss

SOURCE = "stdlib:0.3,idioms:0.7"
DATA = "the standard library of Python 3.11, PSF licence, and programs that Openwork generates"
SHAPE = {"n_layers": 3, "d_model": 192, "n_ctx": 128, "bigram": "learned"}
COMMON = {"batch_size": 8, "validate_every": 500, "checkpoint_every": 1000}
CONFIGS = {
    "sparse": TrainConfig(
        model=ModelConfig(**SHAPE),
        sparsity=SparsityConfig(density=1 / 32, anneal_end=0.3),
        tokens=40_000_000,
        learning_rate=2e-2,
        **{**COMMON, "validate_every": 2000},
    ),
    "dense": TrainConfig(
        model=ModelConfig(**SHAPE, activation_fraction=1),
        sparsity=SparsityConfig(density=1, embedding_density=1, bias_density=1),
        tokens=4_000_000,
        learning_rate=4e-3,
        **COMMON,
    ),
}
"""The dense model sees a tenth of the tokens: so many give it the sparse one's validation loss."""
SEARCH = PruneConfig(target=0.15, validation_pairs=1024)
"""Circuits of hundreds of edges fit 256 pairs: on others they were 0.03 nats above the target (`docs/log.md`)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/reference"))
    parser.add_argument("--side", choices=CONFIGS, action="append", help="Make this one alone, and no comparison.")
    options = parser.parse_args()
    work, console, sides = options.work, Console(), options.side or list(CONFIGS)
    with corpus_progress(console) as progress:
        corpus = build_corpus(SOURCE, work / "corpus", progress=progress)
    for side in sides:
        if (path(f"reference-{side}") / "config.json").is_file():
            continue
        if not (work / side / "config.json").is_file():
            with training_progress(console) as report:
                train(corpus, CONFIGS[side], work / side, report)
        publish(side, work / side, corpus)
    jobs = [(side, task) for side in sides for task in able(side)]
    with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=alone) as pool:
        measured = pool.map(measure, [path(f"reference-{side}") for side, _ in jobs], [task for _, task in jobs])
        for (side, task), numbers in zip(jobs, measured, strict=True):
            console.print(f"{side}, {task}: {numbers['edges']} edges")
    if not options.side:
        directories = {side: path(f"reference-{side}") for side in SIDES}
        models, at_hand = map(load_model, directories.values()), {s: circuits(d) for s, d in directories.items()}
        compared = compare(*models, work, config=SEARCH, at_hand=at_hand)
        draw_comparison(compared, work / "comparison.png")
        write_atomically(work / "comparison.json", json.dumps(compared.summary(), indent=2) + "\n")
        print_rows(f"sparse / dense, circuits at {SEARCH.target} nats", compared.rows())
        print_rows("geometric means", compared.means())


def publish(side: str, trained: Path, corpus: Corpus) -> None:
    """Round the trained model's weights, measure it again, and write it into the package."""
    out, model = path(f"reference-{side}"), load_model(trained)
    about = json.loads((trained / "config.json").read_text())["about"]
    model = round_weights(model)
    model.means = corpus_means(model, corpus)
    config = CONFIGS[side]
    batches = validation_batches(corpus, config.validation_tokens, config.model.n_ctx, config.batch_size, "cpu")
    last = read_metrics(trained)[-1]
    measured = {"validation_loss": validation_loss(model, batches), "before_rounding": last["validation_loss"]}
    losses = {
        row["task"]: {"loss": row["loss"], "held_out": row["held-out loss"]} for row in try_tasks(model, tasks.names())
    }
    about |= {"data": f"{SOURCE} ({DATA})", "licence": "Apache-2.0"}
    save_model(model, out, about={**about, "rounded": "bfloat16", "measured": measured, "tasks": losses})
    lines = [line for line in read_metrics(trained) if "validation_loss" in line]
    write_atomically(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    write_card(model, corpus, out)
    card = in_package((out / "README.md").read_text(), side, out)
    write_atomically(out / "README.md", card + note(side, measured, losses))


def in_package(card: str, side: str, out: Path) -> str:
    """The card of a model that was trained to `out`, as it is for the files that come with the package."""
    card = card.replace(f'"{out}"', f'openwork.models.path("reference-{side}")')
    return card.replace("has every step, `training.png` the curves", "has the steps that validated")


def note(side: str, measured: dict, losses: dict) -> str:
    rows = "".join(f"| {task} | {row['loss']:.3f} | {row['held_out']:.3f} |\n" for task, row in losses.items())
    return (
        f"\nThis is `reference-{side}`, made by `python benchmarks/reference_pair.py`, which makes only what is not "
        f"there: to make it again, move `src/openwork/reference/{side}` away first. Its weights were rounded to "
        f"bfloat16: validation loss {measured['validation_loss']:.4f}, before {measured['before_rounding']:.4f}.\n\n"
        f"| task | loss | held-out templates |\n|---|---|---|\n{rows}"
    )


def able(side: str) -> list[str]:
    """The tasks that a published model can do."""
    measured = json.loads((path(f"reference-{side}") / "config.json").read_text())["about"]["tasks"]
    return [task for task, losses in measured.items() if losses["loss"] < CAN_DO]


def measure(directory: Path, name: str) -> dict[str, Any]:
    """The circuit of a task beside its model, found if it is not there, and what its card says, if it reached its
    target.
    """
    model = load_model(directory)
    task, file = tasks.get(name, model.tokenizer), directory / CIRCUITS / f"{name}.circuit"
    if not file.is_file():
        prune(model, task, config=SEARCH).save(file)
    circuit, card = load_circuit(file, model), file.with_suffix(".card.json")
    numbers = {
        "nodes": len(circuit.nodes),
        "edges": len(circuit.edges),
        "loss": circuit.losses["circuit"],
        "scale": circuit.scale,
        "reached": circuit.reached,
    }
    if circuit.reached:
        if not card.is_file():
            verify(circuit, task).save(card)
        checks = load_card(card).checks
        numbers |= {"held_out": next(check.value for check in checks if check.name == "held-out templates")}
        numbers |= {"says_no": [check.name for check in checks if not check.passed]}
    return numbers


def alone() -> None:
    """A worker has one thread, and Ctrl-C ends it at once: what it saves, it saves whole."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"reference_pair: {error}") from None
    except (BrokenProcessPool, KeyboardInterrupt):
        raise SystemExit("reference_pair: stopped; the same command goes on from there") from None
