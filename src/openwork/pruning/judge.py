"""The judge: the calibrated loss of any circuits of a universe, on fixed pairs, so that it is always the same
(paper, A.5)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.model import Transformer
from openwork.pruning.calibration import calibrate, calibrated_losses
from openwork.pruning.compact import Compact
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs

AT_ONCE = 1e6
"""Numbers per tensor that one batch of circuits may take: as many as stay in the cache."""


class Judge:
    """Judges circuits of one universe, given as edges; their nodes are the ends of those that are supplied."""

    def __init__(self, model: Transformer, universe: Universe, values: Mapping[str, Tensor], pairs: Pairs) -> None:
        self.model, self.universe, self.values, self.pairs = model, universe, values, pairs
        self.compact = Compact(model, universe, values, pairs)
        widest = max(1, len(self.compact.stream.channels), *map(len, universe.kept.values()))
        self.chunk = max(1, int(AT_ONCE / (self.compact.stream.packing.n * widest)))

    @torch.no_grad()
    def differences(self, edge: Tensor) -> Tensor:
        """Logit differences A - B (M, pair, 2) of the circuits edge (M, edges)."""
        if not len(edge):
            return torch.zeros(0, *self.pairs.right.shape)
        order = _first_difference(edge).argsort(stable=True)  # what is long alike stands together, and runs as one
        parts = [self._some(edge[chosen]) for chosen in order.split(self.chunk)]
        return torch.cat(parts)[order.argsort()]

    def _some(self, edge: Tensor) -> Tensor:
        edge = self.universe.supplied(edge)
        return self.compact.differences(self.universe.ends(edge), edge)

    def losses(self, edge: Tensor) -> Tensor:
        """Calibrated losses (M,) in nats of the circuits edge (M, edges)."""
        return calibrated_losses(self.differences(edge)).float()

    def lower_bounds(self, edge: Tensor) -> Tensor:
        """What `losses` (M,) of the circuits edge (M, edges) are at least, by less work where there is less to do."""
        return self.losses(edge)

    def slopes(self, edge: Tensor) -> Tensor:
        """To first order, how much the loss of one circuit edge (edges,), the price of its scale included, rises where
        each open edge is closed."""
        gate = edge[None].clone().requires_grad_()
        open_gate = self.universe.supplied(gate)
        loss = calibrated_losses(self.compact.differences(self.universe.ends(open_gate.detach()), open_gate)).sum()
        return -torch.autograd.grad(loss, gate)[0][0] * edge

    def within(self, edge: Tensor) -> tuple[Judge, Tensor, Tensor]:
        """A judge, on the same pairs, of the universe of the ends of edge (edges,) alone; `edge` in that one; and the
        number here of each edge there."""
        part, _, edges = self.universe.part(self.model, self.universe.ends(edge[None])[0])
        return Judge(self.model, part, self.values, self.pairs), edge[edges], edges.nonzero().squeeze(1)


class CheckedJudge(Judge):
    """Judges by the worse of two losses: on `pairs`, on which circuits are calibrated, and, so calibrated, on others.

    The others are not run where the first loss is above `most` nats already: it is told alone then.
    """

    def __init__(self, judge: Judge, others: Pairs, most: float) -> None:
        super().__init__(judge.model, judge.universe, judge.values, judge.pairs)
        self.others, self.most = Judge(judge.model, judge.universe, judge.values, others), most

    def losses(self, edge: Tensor) -> Tensor:
        differences = self.differences(edge)
        scale, shift = (x[:, None, None].to(differences) for x in calibrate(differences))
        losses = Pairs.losses(scale * differences + shift).float()
        low = (losses <= self.most).nonzero().squeeze(1)
        of_others = Pairs.losses(scale[low] * self.others.differences(edge[low]) + shift[low]).float()
        return losses.index_put((low,), losses[low].maximum(of_others))

    def lower_bounds(self, edge: Tensor) -> Tensor:
        return super().losses(edge)

    def within(self, edge: Tensor) -> tuple[Judge, Tensor, Tensor]:
        judge, inner, places = super().within(edge)
        return CheckedJudge(judge, self.others.pairs, self.most), inner, places


def _first_difference(edge: Tensor) -> Tensor:
    """(M,): at which edge each circuit first differs from the first one; behind the last edge where it does not."""
    return F.pad((edge != edge[0]).to(torch.uint8), (0, 1), value=1).argmax(1)
