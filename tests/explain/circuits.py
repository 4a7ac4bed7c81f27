"""Circuits to explain: planted ones, and random ones of random models in every wiring."""

from __future__ import annotations

from dataclasses import replace

import torch

from openwork.artifacts import Circuit
from openwork.model import Transformer, node_name, parse_node
from openwork.pruning.universe import Universe
from tests.pruning.planted import Kind, PlantedTask, planted_edges, planted_model
from tests.pruning.test_compact import circuit_of, setting


class Posed(PlantedTask):
    """The planted task, with the words that the text needs."""

    description = "say which marker stood before"


def named(circuit: Circuit, model: Transformer) -> Circuit:
    """`circuit` as a search would hand it out."""
    d_head = model.config.d_head
    nodes = tuple(node_name(site, i, d_head) for site, index in circuit.kept.items() for i in index.tolist())
    losses = {"unpruned": 0.1, "circuit": 0.2, "circuit_uncalibrated": 0.3}
    return replace(
        circuit, model_hash=model.hash, task="planted", task_hash="planted", nodes=nodes, losses=losses,
        n_pairs=12, scale=1.5, shift=-0.25,
    )  # fmt: skip


def planted_circuit(kind: Kind) -> tuple[Circuit, Transformer]:
    model = planted_model(kind)
    kept: dict[str, set[int]] = {}
    for name in {name for edge in planted_edges(kind) for name in edge}:
        site, index = parse_node(name, model.config.d_head)
        kept.setdefault(site, set()).add(index)
    universe = Universe.of(model, {site: torch.tensor(sorted(index)) for site, index in kept.items()})
    wanted = planted_edges(kind)
    every = universe.edges_of(torch.ones(universe.n_edges), model.config.d_head)
    edge = torch.tensor([(e.source, e.target) in wanted for e in every]).float()
    return named(circuit_of(model, universe, edge, model.means), model), model


def random_circuit(wiring: dict, share: int = 3, which: int = 2) -> tuple[Circuit, Transformer]:
    """One node in `share` and half of their edges; `which` 0: all edges, 1: none."""
    model, universe, values, edges = setting(wiring, share)
    return named(circuit_of(model, universe, edges[which], values), model), model
