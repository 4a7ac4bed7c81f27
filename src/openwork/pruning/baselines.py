"""Baselines: how many nodes and edges simpler rankings of nodes need for the same loss.

Each ranks all nodes of the model and keeps the fewest, from the top, that reach the target, with every weight between
them. No search, no clean-up: what these save is what the search is for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openwork.model import Transformer
from openwork.pruning.attribution import integrated_gradients, magnitude, split_by_site
from openwork.pruning.config import PruneConfig
from openwork.pruning.judge import CheckedJudge, Judge
from openwork.pruning.minimal import fewest
from openwork.pruning.problem import Problem, Report, ablation_values, frozen
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs, Task


def baselines(
    model: Transformer,
    task: Task,
    *,
    seed: int = 0,
    config: PruneConfig | None = None,
    report: Report = lambda line: None,
) -> list[dict[str, Any]]:
    """For attribution (integrated gradients), magnitude and a random order: nodes, edges and loss, judged as `prune`
    does; all nodes, and ``reached`` false, where even those do not reach the target."""
    config = config or PruneConfig()
    problem = Problem(model, task, ablation_values(model, config.ablation), config, report)
    with frozen(model):
        pairs = problem.pairs(config.fixed_pairs, 4, seed)
        return [
            {"method": name, **_needed(problem, score.argsort(descending=True, stable=True), pairs, name)}
            for name, score in _scores(problem, pairs, seed).items()
        ]


def _scores(problem: Problem, pairs: Pairs, seed: int) -> dict[str, Tensor]:
    arguments = (problem.model, problem.values, pairs)
    attribution = integrated_gradients(*arguments)
    random = torch.rand(len(attribution), generator=torch.Generator().manual_seed(seed))
    return {"attribution": attribution, "magnitude": magnitude(*arguments), "random": random}


def _needed(problem: Problem, ranking: Tensor, pairs: Pairs, name: str) -> dict[str, Any]:
    """The fewest nodes at the head of `ranking` (nodes,) that reach the target."""

    def judged(is_open: Tensor) -> tuple[Judge, Tensor]:
        universe = Universe.of(problem.model, split_by_site(problem.model, is_open > 0))
        judge = CheckedJudge(problem.judge(universe, pairs), problem.validation, problem.config.target)
        return judge, torch.ones(1, universe.n_edges)

    def losses_of(is_open: Tensor) -> Tensor:
        judge, edge = judged(is_open[0])
        loss = judge.losses(edge)
        problem.report({"phase": f"baseline {name}", "loss": float(loss), "size": int(is_open.sum())})
        return loss

    length = int(fewest(ranking[None], losses_of, problem.config.target))
    judge, edge = judged(torch.zeros(len(ranking)).scatter(0, ranking[:length], 1.0))
    loss = float(judge.losses(edge))
    edge = judge.universe.supplied(edge)
    nodes, edges = int(judge.universe.ends(edge).sum()), int(edge.sum())
    reached = length <= len(ranking)
    return {"target": problem.config.target, "reached": reached, "loss": loss, "nodes": nodes, "edges": edges}
