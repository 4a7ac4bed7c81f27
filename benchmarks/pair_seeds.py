"""Sparse against dense over seeds: small pairs of models, each trained from its own seed, pruned to the same loss.

    python benchmarks/pair_seeds.py [--seeds 3] [--task TASK ...] [--out runs/pairs]

The sparse model is the demo's, and so is the corpus; the dense one has its shape and sees as many tokens as give it
about the same validation loss. For each pair, on every task of those named that both can do: the edges and nodes of
both circuits, and the ratios of their geometric means. What is there is not made again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from openwork import demo, tasks
from openwork.cli.output import print_rows
from openwork.corpus import build_corpus
from openwork.errors import UserError
from openwork.files import write_atomically
from openwork.frontier import compare
from openwork.models import load_model
from openwork.progress import corpus_progress, pruning_progress, training_progress
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig, last_validation_loss, train

DENSE_TOKENS = 1_500_000


def configs(seed: int) -> dict[str, TrainConfig]:
    """How both models of a pair are trained."""
    sparse = demo.train_config(seed)
    return {
        "sparse": sparse,
        "dense": replace(
            sparse,
            model=replace(sparse.model, activation_fraction=1.0),
            sparsity=SparsityConfig(density=1, embedding_density=1, bias_density=1),
            tokens=DENSE_TOKENS,
            learning_rate=4e-3,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--task", action="append", choices=tasks.names())
    parser.add_argument("--out", type=Path, default=Path("runs/pairs"))
    options = parser.parse_args()
    console, out, pairs = Console(), options.out, []
    with corpus_progress(console) as progress:
        corpus = build_corpus(demo.DemoConfig.source, out / "corpus", progress=progress)
    for seed in range(options.seeds):
        models, losses = {}, {}
        for side, config in configs(seed).items():
            path = out / str(seed) / side
            if not (path / "config.json").is_file():
                with training_progress(console) as report:
                    train(corpus, config, path, report)
            models[side], losses[side] = load_model(path), last_validation_loss(path)
        with pruning_progress(console) as report:
            compared = compare(**models, out=out / str(seed), names=options.task, report=report)
        print_rows(f"pair {seed}: validation loss {losses['sparse']:.3f} and {losses['dense']:.3f}", compared.rows())
        pairs.append({"pair": seed, "validation_losses": losses, **compared.summary()})
        write_atomically(out / "pairs.json", json.dumps(pairs, indent=2) + "\n")
    print_rows(f"sparse / dense, circuits at {compared.target} nats", [row(pair) for pair in pairs])


def row(pair: dict[str, Any]) -> dict[str, Any]:
    """One pair of the table."""
    (mean,) = pair["means"]
    return {
        "pair": pair["pair"],
        "tasks": len(mean["tasks"]),
        "edges": f"{mean['sparse_edges']:,.1f} / {mean['dense_edges']:,.1f}",
        "nodes": f"{mean['sparse_nodes']:,.1f} / {mean['dense_nodes']:,.1f}",
        "times, edges": mean["edges_dense_over_sparse"],
        "times, nodes": mean["nodes_dense_over_sparse"],
    }


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"pair_seeds: {error}") from None
