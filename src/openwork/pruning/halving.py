"""The two rounds of learning: gates on nodes by successive halving, then gates on the single weights between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from openwork.model import Transformer
from openwork.pruning.compact import Compact
from openwork.pruning.config import PruneConfig
from openwork.pruning.gates import gate_of_node
from openwork.pruning.judge import Judge
from openwork.pruning.learn import Opened, Trials, learn
from openwork.pruning.minimal import fewest
from openwork.pruning.problem import QUICK_PAIRS, Problem
from openwork.pruning.universe import Universe

POOL = 256
"""Training pairs that steps draw from."""
SHRINK_EVERY = 20
"""Steps after which nodes that all trials have given up leave the search."""
GIVEN_UP = -0.2
"""Tau at which a gate that is as low in all trials is given up ..."""
FEWEST = 32
"""... unless it is one of so many best of a trial."""


def learn_nodes(
    problem: Problem, universe: Universe, seeds: tuple[int, ...]
) -> tuple[Universe, Trials, list[Universe]]:
    """Gates on nodes: all prices for each of `seeds`, of which half goes on after each rung, until two are left.

    A rung has twice the steps of the one before, so that all cost about the same. Nodes that every trial has given up
    leave the universe on the way, so that later steps cost less. Trials may give up too much: so the fewest nodes
    that reached the target at the end of each rung are given too, the fewest edges first.
    """
    config, gate = problem.config, gate_of_node(universe)
    pool, quick = problem.pairs(POOL, 2, seeds[0]), problem.pairs(QUICK_PAIRS, 3, seeds[0])
    say = _say(problem, "learn nodes", config.steps)
    trials = _start(config, [(s, k) for s in seeds for k in config.k_coefs], torch.ones(1, int(gate.max()) + 1))
    fewest_nodes = []
    n_rungs = max(1, (len(config.k_coefs) - 1).bit_length())
    for rung in range(n_rungs):
        rung_end = config.steps * (2 ** (rung + 1) - 1) // (2**n_rungs - 1)
        while trials.step < rung_end:
            compact = Compact(problem.model, universe, problem.values, pool)
            opened = _nodes_of(universe, gate)
            steps = min(SHRINK_EVERY, rung_end - trials.step)
            trials = learn(trials, compact, opened, gate.bincount(), config, steps, config.steps, say)
            universe, trials, gate = _without_given_up(problem.model, universe, trials, gate)
        heads = shortest_heads(problem.judge(universe, quick), trials, gate, config.target)
        smallest = heads[int(heads.sum(1).argmin())]
        fewest_nodes.append(universe.part(problem.model, universe.ends(smallest[None])[0])[0])
        trials = trials.rows(_best(trials, heads, keep=max(2, len(trials.k_coef) // (2 * len(seeds)))))
    return universe, trials, sorted(fewest_nodes, key=lambda part: part.n_edges)


def _nodes_of(universe: Universe, gate: Tensor) -> Opened:
    def opened(gates: Tensor) -> tuple[Tensor, None]:
        node = gates[:, gate]
        return node * universe.reached(universe.between(node.detach())), None

    return opened


def _edges_of(universe: Universe) -> Opened:
    def opened(gates: Tensor) -> tuple[Tensor, Tensor]:
        edge = universe.supplied(gates)
        return universe.ends(edge.detach()), edge

    return opened


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
    alive = (trials.tau > GIVEN_UP) | (trials.tau >= trials.tau.topk(min(FEWEST, trials.tau.shape[1])).values[:, -1:])
    part, nodes, _ = universe.part(model, alive.any(0)[gate])
    new_gate = gate_of_node(part)
    old = gate[nodes]
    columns = torch.empty(int(new_gate.max()) + 1, dtype=torch.int64)
    columns[new_gate] = old
    return part, trials.columns(columns), new_gate


def learn_edges(problem: Problem, universe: Universe, trials: Trials) -> tuple[Universe, Trials, Tensor]:
    """Gates on the weights between the nodes that each of M trials has open or needs, for each of `edge_prices`; with
    these weights, (M, edges).

    A price that a node is worth is too much for a weight, of which a node of a dense model has many.
    """
    config = problem.config
    pool, fixed = problem.pairs(POOL, 2, trials.seed[0]), problem.pairs(config.fixed_pairs, 4, trials.seed[0])
    gate = gate_of_node(universe)
    needed = shortest_heads(problem.judge(universe, fixed), trials, gate, config.target)
    between = torch.maximum(needed, universe.between((trials.tau > 0).float()[:, gate]))
    part, _, edges = universe.part(problem.model, universe.ends(between).amax(0))
    between = between[:, edges]
    settings = [
        (seed, k_coef * price)
        for seed, k_coef in zip(trials.seed, trials.k_coef, strict=True)
        for price in config.edge_prices
    ]
    trials = learn(
        _start(config, settings, between.repeat_interleave(len(config.edge_prices), 0)),
        Compact(problem.model, part, problem.values, pool),
        _edges_of(part),
        torch.ones(part.n_edges),
        replace(config, pairs=config.edge_pairs),
        config.steps,
        config.steps,
        _say(problem, "learn edges", config.steps),
    )
    return part, trials, between


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
