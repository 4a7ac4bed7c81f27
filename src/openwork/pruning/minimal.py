"""From gates to the fewest edges: the shortest head of a ranking, and closing what is not needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from openwork.pruning.judge import Judge

EXACT = 256
"""Open edges from which on each removal is tried, not estimated from gradients."""
AGAIN = 8
"""Batches in which what could not go before is tried again, until one has something that can."""
IN_VAIN = 8
"""Removals taken in turn that may fail before all that are left are judged anew."""
Report = Callable[[int, float], None]
"""Gets the number of edges and the loss."""
Losses = Callable[[Tensor], Tensor]
"""Gives the losses (M,) of the circuits edge (M, edges)."""


def fewest(ranking: Tensor, losses_of: Losses, target: float) -> Tensor:
    """For each of M rankings (M, n) of gates, the most needed first, the length of the shortest head with a loss of at
    most `target`; n + 1 where none has.

    By bisection, which assumes that the loss falls as gates open. `losses_of` takes the open gates (M, n), 0 or 1.
    """
    m, n = ranking.shape

    def reached(length: Tensor) -> Tensor:
        head = (torch.arange(n) < length[:, None]).float()
        return losses_of(torch.zeros(m, n).scatter(1, ranking, head)) <= target

    too_few, enough = torch.full((m,), -1), torch.full((m,), n)
    enough[~reached(enough)] = n + 1
    while bool((enough - too_few > 1).any()):
        middle = ((too_few + enough) // 2).clamp(max=n)
        good = reached(middle) & (enough <= n)
        narrowing = enough - too_few > 1
        enough = torch.where(narrowing & good, middle, enough)
        too_few = torch.where(narrowing & ~good, middle, too_few)
    return enough


def roughly(judge: Judge, edge: Tensor, target: float, report: Report = lambda edges, loss: None) -> Tensor:
    """Close edges of the circuit edge (edges,) that gradients call the least needed, while it has more than `EXACT` and
    its loss is at most `target`."""
    circuit = _Inner.of(judge, edge)
    while circuit.edge.sum() > EXACT:
        report(int(circuit.edge.sum()), float(circuit.loss()))
        slopes = circuit.judge.slopes(circuit.edge)
        # where a promised fall of the loss does not come, the flattest
        for needed in (slopes, slopes.abs()):
            shorter = _without_least(circuit.judge, circuit.edge, needed, target)
            if shorter is not None:
                break
        else:
            break
        circuit, _ = circuit.shrunk(shorter)
    return circuit.outer()


def eliminate(judge: Judge, edge: Tensor, target: float, report: Report = lambda edges, loss: None) -> Tensor:
    """Close edges of the circuit edge (edges,), the least needed first, as long as its loss is at most `target`.

    What is left is locally minimal: no edge, and no node with all its edges, can go. While there are many edges, how
    needed they are is estimated from gradients; then each removal is tried, all in one batch. A few go at once, if
    the loss allows that; where there are still many, as many as one round of trials allows. What could not go before is
    tried again only when nothing else can, what gradients call the least needed first. As the circuit shrinks, so does
    the universe in which it runs.
    """
    circuit = _Inner.of(judge, roughly(judge, edge, target, report))
    trials, batches = None, 1
    while True:
        inner, left = circuit.judge, circuit.edge
        report(int(left.sum()), float(circuit.loss()))
        if trials is None:
            by = (inner.lower_bounds, inner.losses)
            shorter, without = _shorter(inner, left, _batches(inner, left, batches), by, target)
            if shorter is None:
                return circuit.outer()
            batches = AGAIN
        else:
            shorter, without = _shorter(inner, left, [trials], (inner.lower_bounds,), target)
        trials = None
        if shorter is not None:
            circuit, kept = circuit.shrunk(shorter)
            trials = _differing((without * shorter)[:, kept], circuit.edge)


@dataclass(frozen=True)
class _Inner:
    """A circuit, edge (edges,), in a universe that shrinks with it, and where its edges stand in the outer one."""

    judge: Judge
    edge: Tensor
    places: Tensor
    n_outer: int

    @classmethod
    def of(cls, judge: Judge, edge: Tensor) -> _Inner:
        return cls(*judge.within(edge), len(edge))

    def loss(self) -> Tensor:
        return self.judge.losses(self.edge[None])[0]

    def shrunk(self, edge: Tensor) -> tuple[_Inner, Tensor]:
        """The circuit `edge` of this universe, in a smaller one where more than half of this one is closed; and which
        edges of this one are left there."""
        if edge.sum() >= len(edge) / 2:
            return replace(self, edge=edge), torch.arange(len(edge))
        judge, inner, kept = self.judge.within(edge)
        return _Inner(judge, inner, self.places[kept], self.n_outer), kept

    def outer(self) -> Tensor:
        return torch.zeros(self.n_outer).index_put((self.places,), self.edge)


def _without_least(judge: Judge, edge: Tensor, needed: Tensor, target: float) -> Tensor | None:
    """The circuit without the edges that `needed` (edges,) puts lowest: a quarter, or as many as the loss allows.

    None where it does not allow a 64th: single edges are better tried than estimated.
    """
    open_edges = edge.nonzero().squeeze(1)
    order = open_edges[needed[open_edges].argsort()]
    together = len(order) // 4
    while together > len(order) // 64:
        shorter = edge.index_fill(0, order[:together], 0.0)
        if judge.losses(shorter[None])[0] <= target:
            return shorter
        together //= 2
    return None


def _every(judge: Judge, edge: Tensor) -> Tensor:
    """The circuit without each edge, and without each node."""
    return torch.cat([_without_edges(edge), _without_nodes(judge, edge)])


def _batches(judge: Judge, edge: Tensor, n: int) -> Iterable[Tensor]:
    """The circuit without each edge and without each node: one batch, or `n` in the order of gradients' estimates."""
    trials = _every(judge, edge)
    if n == 1 or not len(trials):
        return [trials]
    return trials[((edge - trials) @ judge.slopes(edge)).argsort(stable=True)].chunk(n)


def _shorter(
    judge: Judge, edge: Tensor, batches: Iterable[Tensor], by: Iterable[Losses], target: float
) -> tuple[Tensor | None, Tensor]:
    """The circuit less what can go of the first of `batches` of trials of which anything can, None where nothing can;
    and which of these trials were not ruled out.

    A trial is ruled out `by` its lower bound; only where nothing can go of what then costs least, by its loss too. What
    goes is always told by losses.
    """
    close, trials = _in_turn if edge.sum() > EXACT else _fewer, edge[None][:0]
    for trials in batches:
        for losses_of in by:
            trials = _reaching(losses_of, trials, edge, target)
            shorter = close(judge, edge, trials, target)
            if shorter is not None:
                return shorter, trials
    return None, trials


def _reaching(losses_of: Losses, trials: Tensor, edge: Tensor, target: float) -> Tensor:
    """Those of `trials` whose loss is at most `target`, that which costs least per edge first."""
    losses = losses_of(trials)
    cost = (losses - losses_of(edge[None])) / (edge.sum() - trials.sum(1))
    order = cost.argsort(stable=True)
    return trials[order[losses[order] <= target]]


def _differing(trials: Tensor, edge: Tensor) -> Tensor | None:
    """Those of `trials` that are not `edge` itself; None if there are none."""
    trials = trials[(trials != edge).any(1)]
    return trials if len(trials) else None


def _fewer(judge: Judge, edge: Tensor, without: Tensor, target: float) -> Tensor | None:
    """The circuit less what the first few of `without` lack: a quarter of them, or fewer where the loss wants it."""
    together = len(without) // 4 + (len(without) > 0)
    while together:
        shorter = edge * without[:together].prod(0)
        if judge.losses(shorter[None])[0] <= target:
            return shorter
        together //= 2
    return None


def _in_turn(judge: Judge, edge: Tensor, without: Tensor, target: float) -> Tensor | None:
    """The circuit less what as many of `without` lack as the loss allows, taken in turn: many at once, then fewer,
    until `IN_VAIN` single ones could not go."""
    left, at, together, in_vain = edge, 0, len(without) // 4 + 1, 0
    while at < len(without) and in_vain < IN_VAIN:
        shorter = left * without[at : at + together].prod(0)
        if judge.losses(shorter[None])[0] <= target:
            left, at = shorter, at + together
        elif together > 1:
            together //= 2
        else:
            at, in_vain = at + 1, in_vain + 1
    return None if torch.equal(left, edge) else left


def _without_edges(edge: Tensor) -> Tensor:
    """For each open edge, the circuit without it."""
    places = edge.nonzero().squeeze(1)
    return edge.repeat(len(places), 1).scatter(1, places[:, None], 0.0)


def _without_nodes(judge: Judge, edge: Tensor) -> Tensor:
    """For each node with more than one edge, the circuit without its edges."""
    source, target = judge.universe.source, judge.universe.target
    touched = torch.cat([source[edge > 0], target[edge > 0]])
    nodes, count = touched.unique(return_counts=True)
    nodes = nodes[count > 1]
    return edge * ((source != nodes[:, None]) & (target != nodes[:, None]))
