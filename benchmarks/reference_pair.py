"""The reference pair: one weight-sparse and one dense model of about the same validation loss, and their circuits.

    python benchmarks/reference_pair.py [--work runs/reference] [--side sparse|dense]

corpus -> both models -> weights rounded to bfloat16 -> `src/openwork/reference/` -> a circuit of the sparse one, with
its card, for every task that it can do, one task a process -> the comparison (`openwork compare`) on the tasks that
both can do. What is there is not made again, so that a run that was stopped goes on. The sparse side takes two hours on
two cores, most of a day goes into the circuits of the dense one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console

from openwork import tasks
from openwork.artifacts import write_atomically
from openwork.corpus import Corpus, build_corpus
from openwork.errors import UserError
from openwork.faithfulness import verify
from openwork.frontier import compare, draw_comparison
from openwork.frontier.compare import CAN_DO
from openwork.model import ModelConfig
from openwork.models import load_model, path, round_weights, save_model
from openwork.progress import corpus_progress, pruning_progress, training_progress
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
TARGET = 0.15


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
    if "sparse" in sides:
        measured = json.loads((path("reference-sparse") / "config.json").read_text())["about"]["tasks"]
        able = [task for task, losses in measured.items() if losses["loss"] < CAN_DO]
        with ProcessPoolExecutor(
            mp_context=get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            for line in pool.map(partial(find, work / "circuits" / "sparse"), able):
                console.print(line)
    if not options.side:
        sparse, dense = (load_model(path(f"reference-{side}")) for side in CONFIGS)
        with pruning_progress(console) as report:
            compared = compare(sparse, dense, work / "circuits", config=PruneConfig(target=TARGET), report=report)
        draw_comparison(compared, work / "comparison.png")
        write_atomically(work / "comparison.json", json.dumps(compared.summary(), indent=2) + "\n")


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
    card = (out / "README.md").read_text().replace(f'"{out}"', f'openwork.models.path("reference-{side}")')
    card = card.replace(", `training.png` the curves", "")
    write_atomically(out / "README.md", card + note(side, measured, losses))


def note(side: str, measured: dict, losses: dict) -> str:
    rows = "".join(f"| {task} | {row['loss']:.3f} | {row['held_out']:.3f} |\n" for task, row in losses.items())
    return (
        f"\nThis is `reference-{side}`, made by `python benchmarks/reference_pair.py`. Its weights were "
        f"rounded to bfloat16: validation loss {measured['validation_loss']:.4f}, before "
        f"{measured['before_rounding']:.4f}. `metrics.jsonl` has the steps that validated.\n\n"
        f"| task | loss | held-out templates |\n|---|---|---|\n{rows}"
    )


def find(found: Path, name: str) -> str:
    """Find a circuit of the sparse model, in `found` as `compare` has it; if it reached its target, keep it beside the
    model, with its card.
    """
    model, circuits = load_model(path("reference-sparse")), path("reference-sparse") / "circuits"
    task, file, kept, started = (
        tasks.get(name, model.tokenizer),
        found / f"{name}-0.circuit",
        circuits / name,
        time.time(),
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    circuits.mkdir(exist_ok=True)
    if not file.is_file() and kept.with_suffix(".circuit").is_file():
        shutil.copyfile(kept.with_suffix(".circuit"), file)
    elif not file.is_file():
        prune(model, task, config=PruneConfig(target=TARGET)).save(file)
    circuit, seconds = load_circuit(file, model), time.time() - started
    if circuit.reached and not kept.with_suffix(".card.json").is_file():
        shutil.copyfile(file, kept.with_suffix(".circuit"))
        verify(circuit, task).save(kept.with_suffix(".card.json"))
    size = f"{len(circuit.nodes)} nodes, {len(circuit.edges)} edges"
    return f"{name}: {size}, {circuit.losses['circuit']:.3f} nats, {seconds:.0f} s"


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"reference_pair: {error}") from None
