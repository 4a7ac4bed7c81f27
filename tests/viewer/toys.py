"""A small random model, a circuit of some of its nodes and a task of one pair: enough for the page, untrained."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from openwork.artifacts import Card, Check, Circuit
from openwork.corpus import Corpus
from openwork.model import ModelConfig, Transformer, ablated_sites, node_name, node_sites
from openwork.pruning import count_possible_edges, edges_between
from openwork.tasks import Pairs


@dataclass(frozen=True)
class ToyTask:
    """Closes a quote, on one fixed pair repeated."""

    corpus: Corpus
    name: str = "toy"
    description: str = "Close a string with the mark that opened it."
    hash: str = "7a5c" * 16

    def pairs(self, split: str, n: int, seed: int = 0) -> Pairs:
        tokenizer = self.corpus.tokenizer
        rows = [[tokenizer.end_of_text, *tokenizer.encode("x1 = "), *tokenizer.encode(mark)] for mark in "'\""]
        marks = [row[-1] for row in rows]
        length = len(rows[0])
        tokens = torch.tensor([[[*row, tokenizer.end_of_text] for row in rows]] * n)
        right = torch.tensor([marks] * n)
        return Pairs(tokens, torch.full((n,), length - 1), right, right.flip(1), (("x1 = '", 'x1 = "'),) * n)


def toy_model(corpus: Corpus) -> Transformer:
    config = ModelConfig(n_layers=2, d_model=16, d_head=4, n_ctx=24, d_vocab=corpus.tokenizer.d_vocab, bigram="learned")
    model = Transformer(config, seed=3).eval()
    model.tokenizer = corpus.tokenizer
    return model


def toy_circuit(model: Transformer, task: ToyTask, per_site: int = 2) -> Circuit:
    """The circuit of the first channels of every site; its losses are made up but for their order."""
    sites = node_sites(model.config)
    kept = {site: torch.arange(per_site) for site in sites}
    return Circuit(
        model_hash=model.hash,
        task=task.name,
        task_hash=task.hash,
        ablation="zero",
        nodes=tuple(node_name(site, i, model.config.d_head) for site in sites for i in range(per_site)),
        edges=edges_between(model, kept),
        kept=kept,
        ablation_values={site: torch.zeros(width) for site, width in ablated_sites(model.config).items()},
        scale=2.0,
        shift=0.3,
        seed=0,
        target=0.15,
        losses={"unpruned": 0.09, "circuit": 0.14, "circuit_uncalibrated": 0.2},
        n_pairs=2,
        n_possible_nodes=sum(sites.values()),
        n_possible_edges=count_possible_edges(model),
        model=model,
    )


def toy_card(circuit: Circuit) -> Card:
    passed = Check(
        "sufficiency", "is it enough?", 0.14, "nats", 0.9, "best of 2 random", "<= 0.15", True, {"random": [0.9, 1]}
    )
    failed = Check("necessity", "is it needed?", 0.3, "nats", None, "", ">= 0.5", False)
    sizes = (len(circuit.nodes), len(circuit.edges))
    return Card(circuit.model_hash, circuit.task, circuit.task_hash, *sizes, 0, (passed, failed))
