"""The main job, end to end: text -> corpus -> model -> circuit -> card -> page, each a file in one directory.

A stage whose file is there is not run again, so that a demo that was stopped goes on where it was.
"""

from __future__ import annotations

import json
import os
import sys
import time
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from openwork import models, tasks
from openwork.artifacts import Card, Circuit, load_card
from openwork.config import to_dict
from openwork.corpus import Corpus, build_corpus
from openwork.errors import UserError
from openwork.faithfulness import verify
from openwork.files import read_json, write_atomically
from openwork.model import ModelConfig, Transformer
from openwork.models import CIRCUITS, load_model
from openwork.progress import corpus_progress, pruning_progress, training_progress
from openwork.pruning import PruneConfig, load_circuit, prune
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig, last_validation_loss, train
from openwork.viewer import write_page

TASK = "single_double_quote"
PRETRAINED_TOKENS = 400_000
"""Of the texts that are generated to show what a node of the reference model responds to."""


@dataclass(frozen=True)
class DemoConfig:
    """What the demo does, from text to circuit."""

    train: TrainConfig
    prune: PruneConfig = field(default_factory=lambda: PruneConfig(target=0.03, validation_pairs=1024))
    """Well below the paper's 0.15, which smaller circuits reach that the model can do without; on more pairs than by
    default, because fewer are fitted: what reached 0.03 on 256 of them had 0.07 on others (docs/log.md)."""
    seeds: int = 2
    """Searches for the circuit; the best is kept."""
    source: str = "stdlib:0.5,idioms:0.5"
    d_vocab: int = 2048
    max_tokens: int | None = None


def train_config(seed: int) -> TrainConfig:
    """The demo's model and schedule. Small batches: at this size the number of steps decides, see docs/log.md."""
    return TrainConfig(
        model=ModelConfig(n_layers=2, d_model=128, n_ctx=128, bigram="learned"),
        sparsity=SparsityConfig(density=1 / 32, anneal_end=0.3),
        tokens=5_000_000,
        batch_size=8,
        learning_rate=2e-2,
        seed=seed,
        validate_every=400,
        checkpoint_every=400,
    )


def run_demo(out: Path, config: DemoConfig, *, console: Console, open_page: bool) -> dict[str, Any]:
    """Run what is not there yet of the demo in `out`, print its summary, and return every number of it.

    Raises:
        UserError: `out` holds a demo with other settings, a file in it is damaged, or it can't be written.
        Interrupted: training was asked to stop; the same call goes on where it was.
    """
    seconds: dict[str, float] = {}
    with _timed("corpus", seconds, console), corpus_progress(console) as progress:
        corpus = build_corpus(
            config.source, out / "corpus", d_vocab=config.d_vocab, max_tokens=config.max_tokens, progress=progress
        )
    with _timed("train", seconds, console):
        model = _model(corpus, config.train, out / "model", console)
    task = tasks.get(TASK, model.tokenizer)
    with _timed("prune", seconds, console):
        circuit = _circuit(model, task, config, out / f"{TASK}.circuit", console)
    with _timed("verify", seconds, console), console.status("verify"):
        card = _card(circuit, task, out / "card.json")
    with _timed("page", seconds, console), console.status("page"):
        write_page((out / "page.html").resolve(), circuit, task, card, model, corpus)
    return _finish(out, summarise(out / "model", circuit, card, seconds), console, open_page)


def run_pretrained(out: Path, *, console: Console, open_page: bool) -> dict[str, Any]:
    """The end of the main job alone, in seconds: a circuit of the reference model, its card, and the page, in `out`.

    Nothing is trained or searched: model, circuit and card come with the package. The texts that the page shows are
    generated here.

    Raises:
        UserError: a file in `out` is damaged or of other settings, or it can't be written.
    """
    seconds: dict[str, float] = {}
    source = models.path("reference-sparse")
    with _timed("corpus", seconds, console), corpus_progress(console) as progress:
        corpus = build_corpus(
            "idioms",
            out / "corpus",
            tokenizer=source / "tokenizer.json",
            validation_fraction=0.5,
            max_tokens=PRETRAINED_TOKENS,
            progress=progress,
        )
    with _timed("circuit", seconds, console):
        model = load_model(source)
        task = tasks.get(TASK, model.tokenizer)
        circuit = load_circuit(source / CIRCUITS / f"{TASK}.circuit", model)
        circuit.check_task(task)
        card = load_card(source / CIRCUITS / f"{TASK}.card.json")
        circuit.save(out / f"{TASK}.circuit")
        card.save(out / "card.json")
    with _timed("page", seconds, console), console.status("page"):
        write_page((out / "page.html").resolve(), circuit, task, card, model, corpus)
    return _finish(out, summarise(source, circuit, card, seconds), console, open_page)


def _finish(out: Path, summary: dict[str, Any], console: Console, open_page: bool) -> dict[str, Any]:
    """Write the summary, print it, and show the page."""
    write_atomically(out / "summary.json", json.dumps(summary, indent=2) + "\n")
    console.print(summary_table(summary))
    page = (out / "page.html").resolve()
    console.print(f"page: {page}", soft_wrap=True)
    if open_page and _has_browser():
        webbrowser.open(page.as_uri())
    return summary


def _model(corpus: Corpus, config: TrainConfig, path: Path, console: Console) -> Transformer:
    if (path / "config.json").is_file():
        about = read_json(path / "config.json", "model config").get("about") or {}
        if about.get("training") != to_dict(config) or about.get("corpus") != corpus.manifest.hash:
            raise UserError(
                f"{path} was trained with other settings or another corpus; give another --out, or delete it"
            )
        return load_model(path)
    with training_progress(console) as report:
        return train(corpus, config, path, report)


def _circuit(model: Transformer, task: tasks.Task, config: DemoConfig, path: Path, console: Console) -> Circuit:
    if not path.is_file():
        with pruning_progress(console) as report:
            found = prune(model, task, seed=config.train.seed, seeds=config.seeds, config=config.prune, report=report)
        found.save(path)
    circuit = load_circuit(path, model)
    circuit.check_task(task)
    made = (len(circuit.tried), circuit.target, circuit.n_pairs)
    wanted = (config.seeds, config.prune.target, config.prune.validation_pairs)
    if made != wanted:
        told = [f"{n} searches for {target} nats on {n_pairs} pairs" for n, target, n_pairs in (made, wanted)]
        raise UserError(f"{path} is the best of {told[0]}, not of {told[1]}; give another --out, or delete it")
    return circuit


def _card(circuit: Circuit, task: tasks.Task, path: Path) -> Card:
    if path.is_file():
        card = load_card(path)
        made_of = (card.model_hash, card.task_hash, card.n_nodes, card.n_edges)
        if made_of == (circuit.model_hash, circuit.task_hash, len(circuit.nodes), len(circuit.edges)):
            return card
    card = verify(circuit, task)
    card.save(path)
    return card


def summarise(model: Path, circuit: Circuit, card: Card, seconds: dict[str, float]) -> dict[str, Any]:
    """Every number that the demo prints, of the Model directory `model` and what was found in it."""
    return {
        "task": circuit.task,
        "target": circuit.target,
        "reached": circuit.reached,
        "validation_loss": last_validation_loss(model),
        "unpruned_loss": circuit.losses["unpruned"],
        "circuit_loss": circuit.losses["circuit"],
        "circuit_loss_uncalibrated": circuit.losses["circuit_uncalibrated"],
        "nodes": len(circuit.nodes),
        "possible_nodes": circuit.n_possible_nodes,
        "edges": len(circuit.edges),
        "possible_edges": circuit.n_possible_edges,
        "searches": list(circuit.tried),
        "checks": {
            check.name: {
                "value": check.value,
                "control": check.control,
                "threshold": check.threshold,
                "passed": check.passed,
            }
            for check in card.checks
        },
        "passed": card.passed and circuit.reached,
        "seconds": {**seconds, "all": sum(seconds.values())},
    }


def summary_table(summary: dict[str, Any]) -> Table:
    """The summary as a table for the terminal."""
    table = Table("what", "value", "control", "bound", "", title=f"circuit of {summary['task']}")
    yes = {True: Text("yes", "green"), False: Text("NO", "bold red")}
    table.add_row("unpruned loss of the model", f"{summary['unpruned_loss']:.3f}")
    loss, target = f"{summary['circuit_loss']:.3f}", f"<= {summary['target']}"
    table.add_row("loss of the circuit", loss, "", target, yes[summary["reached"]])
    table.add_row("nodes", f"{summary['nodes']} of {summary['possible_nodes']:,}")
    table.add_row("edges (non-zero weights)", f"{summary['edges']} of {summary['possible_edges']:,}")
    for name, check in summary["checks"].items():
        control = "" if check["control"] is None else f"{check['control']:.3f}"
        table.add_row(name, f"{check['value']:.3f}", control, check["threshold"], yes[check["passed"]])
    if summary["circuit_loss"] < summary["unpruned_loss"]:
        table.caption = (
            "The circuit's loss lies below the model's: pruning and calibration fit the task, read it with care."
        )
    return table


@contextmanager
def _timed(name: str, seconds: dict[str, float], console: Console) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began
    console.print(f"{name}: {seconds[name]:.0f} s", highlight=False)


def _has_browser() -> bool:
    """Whether a page can be shown: a desktop session and a terminal that a person looks at."""
    desktop = sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )
    return desktop and sys.stdout.isatty()
