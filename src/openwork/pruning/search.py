"""Pruning: from a model and a task to a circuit (paper, 2.2 and A.5).

shortlist nodes by gradients of the whole model
->  learn gates on nodes, many prices and seeds at once, dropping the worse half again and again
->  learn gates on the single weights between the nodes that are left
->  close what is not needed until no node or edge can go  ->  calibrate
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Ablation, Circuit
from openwork.errors import UserError
from openwork.model import Transformer, node_name, node_sites
from openwork.pruning.attribution import influence, integrated_gradients, split_by_site
from openwork.pruning.calibration import calibrate, calibrated_losses, losses
from openwork.pruning.compact import Compact
from openwork.pruning.config import PruneConfig
from openwork.pruning.edges import count_possible_edges
from openwork.pruning.gates import gate_of_node
from openwork.pruning.judge import Judge
from openwork.pruning.learn import Trials, learn
from openwork.pruning.minimal import eliminate, fewest
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs, Task

Report = Callable[[dict[str, Any]], None]
POOL = 256
"""Training pairs that steps draw from."""
QUICK_PAIRS = 32
"""Pairs on which the shortlist is made and trials are compared half-way."""
MOST_CANDIDATES = 4096
GIVEN_UP = -0.2
"""Tau at which a gate that is as low in all trials is given up."""
AIMS = (1.0, 0.9, 0.8, 0.65)
"""Fractions of the target to clean up to, on the fixed pairs, until the validation pairs reach it too."""


@dataclass(frozen=True)
class Problem:
    """What every phase of one search needs."""

    model: Transformer
    task: Task
    values: dict[str, Tensor]
    config: PruneConfig
    report: Report

    def pairs(self, n: int, purpose: int, seed: int) -> Pairs:
        """`n` training pairs, others for each purpose and seed."""
        return self.task.pairs("train", n, seed=1_000_000 * purpose + seed)

    def judge(self, universe: Universe, pairs: Pairs) -> Judge:
        return Judge(self.model, universe, self.values, pairs)


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
    what the others reached stands in ``circuit.tried``. Look at ``circuit.reached``: if no seed reaches the target, the
    nearest one is returned. `report` gets progress: the phase, its step, the loss and the size.

    Raises:
        UserError: mean ablation and the model has no means.
    """
    config = config or PruneConfig()
    problem = Problem(model, task, ablation_values(model, config.ablation), config, report)
    with _frozen(model):
        universe = shortlist(problem, seed)
        nodes, trials = learn_nodes(problem, universe, tuple(range(seed, seed + seeds)))
        edges, trials, node_circuits = learn_edges(problem, nodes, trials)
        found = [
            smallest(problem, edges, [(trials.tau[i] > 0).float(), node_circuits[i]], trials.seed[i])
            for i in range(seeds)
        ]
    tried = tuple(
        {
            "seed": c.seed,
            "k_coef": k_coef,
            "reached": c.reached,
            "loss": c.losses["circuit"],
            "nodes": len(c.nodes),
            "edges": len(c.edges),
        }
        for c, k_coef in zip(found, trials.k_coef, strict=True)
    )
    return replace(min(found, key=order), tried=tried)


def ablation_values(model: Transformer, ablation: Ablation) -> dict[str, Tensor]:
    """For each node site, the values (width,) of ablated nodes."""
    if ablation == "zero":
        return {site: torch.zeros(width) for site, width in node_sites(model.config).items()}
    if not model.means:
        raise UserError(
            "the model has no mean activations for mean ablation; give --corpus so that they can be computed, "
            "or use --ablation zero"
        )
    return dict(model.means)


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
        whole = float(calibrated_losses(pairs.differences(model(pairs.flat))))
    while True:
        chosen = torch.zeros(len(rankings[0]), dtype=torch.bool)
        for ranking in rankings:
            chosen[ranking[:n]] = True
        universe = Universe.of(model, split_by_site(model, chosen))
        loss = float(problem.judge(universe, pairs).losses(torch.ones(1, universe.n_edges)))
        if loss <= max(problem.config.target / 2, whole) or n >= min(len(chosen), MOST_CANDIDATES):
            return universe
        n *= 2


def learn_nodes(problem: Problem, universe: Universe, seeds: tuple[int, ...]) -> tuple[Universe, Trials]:
    """Gates on nodes: all prices for each of `seeds`, of which half goes on after each rung, until one is left.

    Nodes that every trial has given up leave the universe on the way, so that later steps cost less.
    """
    config, gate = problem.config, gate_of_node(universe)
    pool, quick = problem.pairs(POOL, 2, seeds[0]), problem.pairs(QUICK_PAIRS, 3, seeds[0])
    trials = _start(config, [(s, k) for s in seeds for k in config.k_coefs], torch.ones(1, int(gate.max()) + 1))
    n_rungs = max(1, (len(config.k_coefs) - 1).bit_length())
    for rung in range(n_rungs):
        compact = Compact(problem.model, universe, problem.values, pool)
        steps = config.steps * (rung + 1) // n_rungs - trials.step
        trials = learn(
            trials,
            compact,
            lambda g, gate=gate: (g[:, gate], None),
            gate.bincount(),
            config,
            steps,
            config.steps,
            _say(problem, "learn nodes", config.steps),
        )
        judge = problem.judge(universe, quick)
        heads = shortest_heads(judge, trials, gate, config.target)
        trials = trials.rows(_best(trials, heads, keep=-(-len(trials.k_coef) // (2 * len(seeds)))))
        universe, trials, gate = _without_given_up(problem.model, universe, trials, gate)
    return universe, trials


def shortest_heads(judge: Judge, trials: Trials, gate: Tensor, target: float) -> Tensor:
    """For each trial the edges (M, edges) between the fewest nodes that reach `target`, by tau; all where none do."""
    ranking = trials.tau.argsort(descending=True, stable=True)

    def edges(is_open: Tensor) -> Tensor:
        return judge.universe.between(is_open[:, gate])

    length = fewest(ranking, lambda is_open: judge.losses(edges(is_open)), target)
    place = ranking.argsort()
    return edges((place < length[:, None]).float())


def _best(trials: Trials, edges: Tensor, keep: int) -> list[int]:
    """The numbers of the `keep` trials of each seed with the fewest `edges` (M, edges)."""
    sizes = edges.sum(1).tolist()
    chosen = []
    for seed in dict.fromkeys(trials.seed):
        own = [i for i, other in enumerate(trials.seed) if other == seed]
        chosen += sorted(sorted(own, key=lambda i: sizes[i])[:keep])
    return chosen


def _without_given_up(
    model: Transformer, universe: Universe, trials: Trials, gate: Tensor
) -> tuple[Universe, Trials, Tensor]:
    """The universe and the trials without the nodes whose gates are low in all trials, and the gate of each node."""
    part, nodes, _ = universe.part(model, (trials.tau.amax(0) > GIVEN_UP)[gate])
    new_gate = gate_of_node(part)
    old = gate[nodes]
    columns = torch.empty(int(new_gate.max()) + 1, dtype=torch.int64)
    columns[new_gate] = old
    return part, trials.columns(columns), new_gate


def learn_edges(problem: Problem, universe: Universe, trials: Trials) -> tuple[Universe, Trials, Tensor]:
    """Gates on the weights between the open nodes of each trial; with what the nodes alone would give, (M, edges)."""
    config = problem.config
    pool, fixed = problem.pairs(POOL, 2, trials.seed[0]), problem.pairs(config.fixed_pairs, 4, trials.seed[0])
    gate = gate_of_node(universe)
    of_nodes = shortest_heads(problem.judge(universe, fixed), trials, gate, config.target)
    start = torch.maximum(of_nodes, universe.between((trials.tau > 0).float()[:, gate]))
    part, _, edges = universe.part(problem.model, universe.ends(start).amax(0))
    of_nodes, start = of_nodes[:, edges], start[:, edges]
    compact, steps = Compact(problem.model, part, problem.values, pool), config.steps // 2
    trials = learn(
        _start(config, list(zip(trials.seed, trials.k_coef, strict=True)), start),
        compact,
        lambda g: (part.ends(g.detach()), g),
        torch.ones(part.n_edges),
        config,
        steps,
        steps,
        _say(problem, "learn edges", steps),
    )
    return part, trials, of_nodes


def _start(config: PruneConfig, settings: list[tuple[int, float]], is_open: Tensor) -> Trials:
    """Trials with `settings` (seed, k_coef), a little open where `is_open` (M or 1, gates), else closed for good."""
    noise = torch.stack(
        [torch.randn(is_open.shape[1], generator=torch.Generator().manual_seed(seed)) for seed, _ in settings]
    )
    tau = torch.where(is_open > 0, config.init_bias + config.init_noise * noise, -1.0)
    return Trials.start(tuple(seed for seed, _ in settings), tuple(k_coef for _, k_coef in settings), tau)


def _say(problem: Problem, phase: str, n_steps: int) -> Callable[[Trials, Tensor, Tensor], None]:
    """Reports the smallest trial of a step."""

    def say(trials: Trials, loss: Tensor, gates: Tensor) -> None:
        open_gates = gates.sum(1)
        i = int(open_gates.argmin())
        line = {"phase": phase, "step": trials.step, "n_steps": n_steps, "trials": len(loss)}
        problem.report({**line, "loss": float(loss[i]), "size": int(open_gates[i])})

    return say


def smallest(problem: Problem, universe: Universe, starts: list[Tensor], seed: int) -> Circuit:
    """The smallest circuit that cleaning up any of `starts`, each (edges,), gives; the nearest one if none reaches the
    target."""
    fixed = problem.pairs(problem.config.fixed_pairs, 4, seed)
    judge = problem.judge(universe, fixed)
    return min((_cleaned_up(problem, *judge.within(start), seed) for start in starts), key=order)


def _cleaned_up(problem: Problem, judge: Judge, edge: Tensor, seed: int) -> Circuit:
    def report(size: int, loss: float) -> None:
        problem.report({"phase": "clean up", "seed": seed, "loss": loss, "size": size})

    circuit = build(problem, judge, edge, seed)
    for aim in AIMS:
        aim *= problem.config.target
        if judge.losses(edge[None])[0] > aim:
            break
        circuit = build(problem, judge, eliminate(judge, edge, aim, report), seed)
        if circuit.reached:
            break
    return circuit


def order(circuit: Circuit) -> tuple[float, ...]:
    """What makes one circuit better than another, the smallest being best."""
    size = (len(circuit.edges), len(circuit.nodes)) if circuit.reached else ()
    return (not circuit.reached, *size, circuit.losses["circuit"])


def build(problem: Problem, judge: Judge, edge: Tensor, seed: int) -> Circuit:
    """The circuit of edge (edges,): calibrated on the judge's pairs, its stated loss on the validation pairs."""
    model, task, config, universe = problem.model, problem.task, problem.config, judge.universe
    scale, shift = (float(x) for x in calibrate(judge.differences(edge[None])[0]))
    kept, d_head = universe.kept_by(universe.ends(edge[None])[0]), model.config.d_head
    validation = task.pairs("validation", config.validation_pairs)
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
        unpruned, differences = (
            validation.loss(model(validation.flat)),
            validation.differences(circuit(validation.flat)),
        )
    stated = {"unpruned": unpruned, "circuit": losses(scale * differences + shift)}
    stated["circuit_uncalibrated"] = losses(differences)
    return replace(circuit, losses={name: float(loss) for name, loss in stated.items()})


@contextmanager
def _frozen(model: Transformer) -> Iterator[None]:
    """Without gradients of the model's parameters."""
    required = [parameter.requires_grad for parameter in model.parameters()]
    model.requires_grad_(False)
    try:
        yield
    finally:
        for parameter, was in zip(model.parameters(), required, strict=True):
            parameter.requires_grad_(was)
