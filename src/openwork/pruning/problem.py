"""What every phase of one search needs: the model, the task, the ablation values, and how to judge and to report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Ablation, Circuit
from openwork.errors import UserError
from openwork.model import Transformer, ablated_sites, node_name, node_sites
from openwork.pruning.calibration import calibrate
from openwork.pruning.config import PruneConfig
from openwork.pruning.edges import count_possible_edges
from openwork.pruning.judge import Judge
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs, Task

Report = Callable[[dict[str, Any]], None]
QUICK_PAIRS = 32
"""Pairs on which nodes are shortlisted and trials are compared half-way."""


@dataclass(frozen=True)
class Problem:
    """What every phase of one search needs."""

    model: Transformer
    task: Task
    values: dict[str, Tensor]
    config: PruneConfig
    report: Report

    def __post_init__(self) -> None:
        self._fitting(self.validation)  # what ends a search ends it before it begins

    def pairs(self, n: int, purpose: int, seed: int) -> Pairs:
        """`n` training pairs, others for each purpose and seed."""
        return self._fitting(self.task.pairs("train", n, seed=1_000_000 * purpose + seed))

    @cached_property
    def validation(self) -> Pairs:
        """The pairs of the stated losses."""
        return self.task.pairs("validation", self.config.validation_pairs)

    def _fitting(self, pairs: Pairs) -> Pairs:
        """`pairs`, refused if their prompts are longer than the model's context."""
        longest, n_ctx = pairs.tokens.shape[-1], self.model.config.n_ctx
        if longest > n_ctx:
            raise UserError(
                f"{self.task.name} has prompts of {longest} tokens, more than the model's context of {n_ctx}; train "
                "with a larger model.n_ctx, or write a task with shorter prompts"
            )
        return pairs

    @cached_property
    def unpruned(self) -> float:
        """The whole model's loss on them, in nats."""
        with torch.no_grad():
            return float(self.validation.loss(self.model(self.validation.flat, due=self.validation.due)))

    def judge(self, universe: Universe, pairs: Pairs) -> Judge:
        return Judge(self.model, universe, self.values, pairs)


def ablation_values(model: Transformer, ablation: Ablation) -> dict[str, Tensor]:
    """For each of `ablated_sites`, the values (width,) of ablated nodes, and behind heads of what these move."""
    if ablation == "zero":
        return {site: torch.zeros(width) for site, width in ablated_sites(model.config).items()}
    if not model.means:
        raise UserError(
            "the model has no mean activations for mean ablation; compute them once with openwork prune --corpus, or "
            "ablate with zero: ablation=zero, and --zero with openwork import circuit"
        )
    return dict(model.means)


@contextmanager
def frozen(model: Transformer) -> Iterator[None]:
    """Without gradients of the model's parameters."""
    required = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was in zip(model.parameters(), required, strict=True):
            parameter.requires_grad_(was)


def build(problem: Problem, judge: Judge, edge: Tensor, seed: int) -> Circuit:
    """The circuit of edge (edges,): calibrated on the judge's pairs, its stated loss on the validation pairs."""
    model, task, config, universe = problem.model, problem.task, problem.config, judge.universe
    edge = universe.supplied(edge)
    scale, shift = (float(x) for x in calibrate(judge.differences(edge[None])[0]))
    kept, d_head = universe.kept_by(universe.ends(edge[None])[0]), model.config.d_head
    validation = problem.validation
    circuit = Circuit(
        model_hash=model.hash,
        task=task.name,
        task_hash=task.hash,
        ablation=config.ablation,
        nodes=tuple(node_name(site, i, d_head) for site, index in kept.items() for i in index.tolist()),
        edges=universe.edges_of(edge, d_head),
        kept=kept,
        ablation_values=problem.values,
        scale=scale,
        shift=shift,
        seed=seed,
        target=config.target,
        losses={},
        n_pairs=config.validation_pairs,
        n_possible_nodes=sum(node_sites(model.config).values()),
        n_possible_edges=count_possible_edges(model),
        model=model,
    )
    with torch.no_grad():
        differences = validation.differences(circuit(validation.flat, validation.due))
    stated = {
        "circuit": Pairs.losses(scale * differences + shift),
        "circuit_uncalibrated": Pairs.losses(differences),
    }
    stated = {"unpruned": problem.unpruned} | {name: float(loss) for name, loss in stated.items()}
    return replace(circuit, losses=stated)
