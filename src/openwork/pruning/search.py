"""Pruning: from a model and a task to a circuit (paper, 2.2 and A.5).

shortlist nodes by gradients of the whole model
->  learn gates on nodes, many prices and seeds at once, dropping the worse half again and again
->  learn gates on the single weights between the nodes that are left
->  close what is not needed until no node or edge can go  ->  calibrate
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.errors import UserError
from openwork.model import Transformer
from openwork.pruning.attribution import influence, integrated_gradients, split_by_site
from openwork.pruning.calibration import calibrated_losses
from openwork.pruning.config import PruneConfig
from openwork.pruning.halving import learn_edges, learn_nodes
from openwork.pruning.judge import CheckedJudge, Judge
from openwork.pruning.minimal import EXACT, eliminate, roughly
from openwork.pruning.problem import QUICK_PAIRS, Problem, Report, ablation_values, build, frozen
from openwork.pruning.universe import Universe
from openwork.tasks import Task

MOST_CANDIDATES = 4096
CleanUp = Callable[[Judge, Tensor, float, Callable[[int, float], None]], Tensor]
"""`roughly` or `eliminate`."""


def prune(
    model: Transformer,
    task: Task,
    *,
    seed: int = 0,
    seeds: int = 1,
    config: PruneConfig | None = None,
    report: Report = lambda line: None,
) -> Circuit:
    """The smallest circuit found for `task` in `model` over `seeds` searches, the first with `seed`.

    A circuit that reaches the target counts before one that does not, then the one with fewer edges, then fewer nodes;
    what the others reached stands in ``circuit.tried``. The searches see the same pairs, and go on from each other's
    circuits, so that one of several need not be what it would be alone. Look at ``circuit.reached``: if no seed reaches
    the target, the nearest one is returned. `report` gets progress: the phase, its step, the loss and the size.

    Raises:
        UserError: mean ablation and the model has no means, prompts longer than its context, or no search is asked for.
    """
    if seeds < 1:
        raise UserError(f"{seeds} searches find nothing; ask for at least 1")
    config = config or PruneConfig()
    problem = Problem(model, task, ablation_values(model, config.ablation), config, report)
    with frozen(model):
        universe = shortlist(problem, seed)
        nodes, of_nodes, fewest_nodes = learn_nodes(problem, universe, tuple(range(seed, seed + seeds)))
        edges, of_edges, between = learn_edges(problem, nodes, of_nodes)
        judge = problem.judge(edges, problem.pairs(config.fixed_pairs, 4, seed))
        learnt = zip(of_edges.seed, (of_edges.tau > 0).float(), strict=True)
        starts = [Start(*one) for one in (*learnt, *zip(of_nodes.seed, between, strict=True))]
        found = smallest(problem, judge, starts)
        for larger in (*fewest_nodes, universe):
            if any(circuit.reached for circuit in found):
                break
            found += smallest(problem, problem.judge(larger, judge.pairs), [Start(seed, torch.ones(larger.n_edges))])
        found += [build(problem, judge, s.edge, s.seed) for s in starts if not any(c.seed == s.seed for c in found)]
    tried = tuple(_told(min((c for c in found if c.seed == s), key=rank)) for s in dict.fromkeys(of_nodes.seed))
    return replace(min(found, key=rank), tried=tried)


def shortlist(problem: Problem, seed: int) -> Universe:
    """Nodes that matter by integrated gradients or by influence, enough for the task with a good margin.

    Twice as many are taken until the loss is at most half the target, or no more than the whole model's.
    """
    model, values, n = problem.model, problem.values, problem.config.candidates
    pairs = problem.pairs(QUICK_PAIRS, 1, seed)
    rankings = [
        score(model, values, pairs).argsort(descending=True, stable=True) for score in (integrated_gradients, influence)
    ]
    with torch.no_grad():
        whole = float(calibrated_losses(pairs.differences(model(pairs.flat, due=pairs.due))))
    while True:
        chosen = torch.zeros(len(rankings[0]), dtype=torch.bool)
        for ranking in rankings:
            chosen[ranking[:n]] = True
        universe = Universe.of(model, split_by_site(model, chosen))
        loss = float(problem.judge(universe, pairs).losses(torch.ones(1, universe.n_edges)))
        if loss <= max(problem.config.target / 2, whole) or n >= min(len(chosen), MOST_CANDIDATES):
            return universe
        n *= 2


@dataclass(frozen=True)
class Start:
    """A set of edges to clean up, and the seed that found it."""

    seed: int
    edge: Tensor


def smallest(problem: Problem, judge: Judge, starts: list[Start]) -> list[Circuit]:
    """Locally minimal circuits within the most promising of `starts`, and within unions of these circuits.

    They reach the target both on the fixed pairs and on the validation pairs, and without any edge or node on one of
    them do not.
    """
    judge = CheckedJudge(judge, problem.validation, problem.config.target)
    rough = _with_unions(problem, judge, _cleaned_up(problem, judge, starts, roughly), roughly)
    ends = _with_unions(problem, judge, _cleaned_up(problem, judge, _promising(rough), eliminate), eliminate)
    circuits: list[Circuit] = []
    for end in ends:
        if not any(c.reached and c.seed == end.seed and len(c.edges) < _n_edges(end) for c in circuits):
            circuits.append(build(problem, judge, end.edge, end.seed))
    return circuits


def _cleaned_up(problem: Problem, judge: Judge, starts: list[Start], by: CleanUp) -> list[Start]:
    """What is left at the target of those of `starts` that reach it, each end once, the smallest first."""
    target, ends = problem.config.target, []
    for start in starts:

        def report(size: int, loss: float, seed: int = start.seed) -> None:
            problem.report({"phase": "clean up", "seed": seed, "loss": loss, "size": size})

        if judge.losses(start.edge[None])[0] <= target:
            ends.append(replace(start, edge=by(judge, start.edge, target, report)))
    return _different(ends)


def _with_unions(problem: Problem, judge: Judge, ends: list[Start], by: CleanUp) -> list[Start]:
    """`ends`, the smallest first, and what is smaller still within unions of the smallest with each of the others.

    Two circuits that do the task by partly different edges together hold a third, often smaller than both.
    """
    best = ends[:1]
    for other in ends[1:]:
        union = replace(best[-1], edge=torch.maximum(best[-1].edge, other.edge))
        best += [end for end in _cleaned_up(problem, judge, [union], by) if _n_edges(end) < _n_edges(best[-1])]
    return _different([*ends, *best])


def _different(ends: list[Start]) -> list[Start]:
    """Each of `ends` once, the smallest first."""
    return sorted({(end.seed, *end.edge.tolist()): end for end in ends}.values(), key=_n_edges)


def _promising(rough: list[Start]) -> list[Start]:
    """Of `rough`, the smallest first, those small enough that each removal is tried, and the smallest of each seed.

    To try every edge of all large ones would cost most of the time; what a second one may bring is little once unions
    were taken.
    """
    least = {end.seed: end for end in reversed(rough)}
    return [end for end in rough if _n_edges(end) <= EXACT or end is least[end.seed]]


def _n_edges(start: Start) -> float:
    return float(start.edge.sum())


def _told(circuit: Circuit) -> dict[str, Any]:
    """What is told of the best circuit of a seed."""
    told = {"seed": circuit.seed, "reached": circuit.reached, "loss": circuit.losses["circuit"]}
    return told | {"nodes": len(circuit.nodes), "edges": len(circuit.edges)}


def rank(circuit: Circuit) -> tuple[float, ...]:
    """What makes one circuit better than another, the smallest being best."""
    size = (len(circuit.edges), len(circuit.nodes)) if circuit.reached else ()
    return (not circuit.reached, *size, circuit.losses["circuit"])
