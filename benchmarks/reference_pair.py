"""The reference pair: one weight-sparse and one dense model of about the same validation loss, and their circuits.

    python benchmarks/reference_pair.py [--work runs/reference] [--side sparse|dense]

corpus -> both models -> weights rounded to bfloat16 -> `src/openwork/reference/` -> a circuit of the sparse one, with
its card, for every task that it can do, one task a process -> the comparison (`openwork compare`) on the tasks that
both can do. What is there is not made again, so that a run that was stopped goes on. The sparse side takes about two
hours on two cores, the circuits of the dense one many more.
"""

from __future__ import annotations

import argparse
import json
import signal
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
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
        with ProcessPoolExecutor(mp_context=get_context("spawn"), initializer=alone) as pool:
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
    model, started = load_model(path("reference-sparse")), time.perf_counter()
    task, file = tasks.get(name, model.tokenizer), found / f"{name}-0.circuit"
    kept = path("reference-sparse") / "circuits"
    beside, card = kept / f"{name}.circuit", kept / f"{name}.card.json"
    if file.is_file() or beside.is_file():
        circuit = load_circuit(file if file.is_file() else beside, model)
    else:
        circuit = prune(model, task, config=PruneConfig(target=TARGET))
    circuit.save(file)
    if circuit.reached and not card.is_file():
        circuit.save(beside)
        verify(circuit, task).save(card)
    size = f"{len(circuit.nodes)} nodes, {len(circuit.edges)} edges, {circuit.losses['circuit']:.3f} nats"
    return f"{name}: {size}; {time.perf_counter() - started:.0f} s"


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
