"""Fast mode: gradients and moments for the watched weights alone, and every R-th step a dense gradient.

Watched are the *kept* weights of a matrix, its non-zeros, and as many of its zeros. Between two refreshes both stay the
same: the sparse layers multiply by the kept weights and give gradients for all watched ones, and the moments of all
matrices are two vectors as long as that. A watched zero stays zero and gathers moments.

Every `refresh_every` steps the gradient g (of RMS 1) is dense. Then

- the watched weights take their step, the zeros among them too, and each matrix keeps its largest: a zero comes back
  if its gradients of the last R steps agree, and a weak weight goes,
- the zeros of the largest momentum are watched from then on; one that was not watched has m = (1 - beta1) g, as if
  its gradient had been zero before, and v = g^2, as if it had always been as large.

Zeros that come back on the gradient of one batch drive out weights that are needed, however often one refreshes
(docs/log.md, "What fast mode forgot"). As long as the density of any of these matrices falls, and before the step
`first`, all are trained by the exact method, bit by bit. Always by it are trained vectors, matrices of which more than
`KEPT_BELOW` stays non-zero, and the embedding: a batch has gradients for the embeddings of its own tokens alone, so
that a refresh would look past the zeros of most tokens.

The RMS that the gradient is divided by is meant over all weights. Between refreshes it is estimated as
sqrt(ratio / n * square), where `square` sums the gradient's squares over kept weights and what is trained by the exact
method, n counts all weights, and `ratio` is that of all squares to those, as it was at the last refresh.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from openwork.errors import UserError
from openwork.kernels import SparseWeight, adam_step_, compress, keep_topk_
from openwork.sparsity.engine import SparseLinear
from openwork.sparsity.optimizer import Adam, AdamConfig, norm
from openwork.sparsity.projection import Quota, project_

log = logging.getLogger(__name__)
KEPT_BELOW = 1 / 8
"""The largest final density of a matrix in fast mode; fixed, so that a run is the same method on every machine."""
WATCHED = 2
"""Watched weights for every kept one."""


class KeptAdam(Adam):
    """Adam over the watched weights; `layers` are the model's sparse layers, `final` is what is kept in the end, and
    `first` the step, from 0, before which it is the exact method in any case."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        config: AdamConfig,
        layers: Iterable[SparseLinear],
        final: Sequence[Quota],
        refresh_every: int,
        first: int,
    ) -> None:
        super().__init__(named, config)
        self.first = first
        matrices = (quota for quota in final if quota.parameter.dim() == 2 and quota.name != "embed.weight")
        self.final = {q.name: q.k for q in matrices if q.k <= KEPT_BELOW * q.parameter.numel()}
        """How many weights a matrix keeps in fast mode, which begins when none of these has more."""
        if not self.final:
            log.warning("no matrix keeps 1/8 of its weights or less: fast mode is exact mode at this density")
        self.refresh_every, self.refreshing, self.ratio = refresh_every, True, 1.0
        by_weight = {layer.weight: layer for layer in layers}
        self.layers = {name: by_weight[p] for name, p in self.parameters.items() if p in by_weight}
        self.places: dict[str, Tensor] = {}
        """For each matrix in fast mode, the places (n,) of its watched weights in the flat matrix, ascending."""
        device = next(iter(self.parameters.values())).device
        self.values = self.exp_avg = self.exp_avg_sq = torch.empty(0, device=device)
        """Watched weights and their moments, of all these matrices in a row."""
        self.is_kept = self.values.bool()
        """Which of them are kept; the others are zero."""
        self.kept_values, self.kept_index = self.values, self.values.long()
        """The kept ones alone, which the sparse layers multiply by, and where they stand among the watched."""
        self.gradient = self.values

    @property
    def n_weights(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def begin(self, step: int) -> None:
        self.refreshing = step % self.refresh_every == 0 or not self.places
        if self.refreshing:  # products are by what is kept, as before; their gradients are dense
            for layer in self.layers.values():
                layer.watched = None

    def settle(self) -> None:
        self._write_back()
        for layer in self.layers.values():
            layer.kept = layer.watched = None

    def gradient_rms(self) -> float:
        self.gradient = torch.cat([self.values[:0], *(self._gradient(name) for name in self.places)])
        if self.refreshing:
            return super().gradient_rms()
        others = [p.grad for name, p in self.parameters.items() if name not in self.places and p.grad is not None]
        return norm([self.gradient[self.kept_index], *others]) * (self.ratio / self.n_weights) ** 0.5

    def step(self, rate: float, gradient_rms: float, plan: Sequence[Quota]) -> None:
        self.n += 1
        moments, options = (self.exp_avg, self.exp_avg_sq), self.options(rate, gradient_rms)
        adam_step_(self.values, self.gradient, *moments, decay=self.config.weight_decay, **options)
        self.update(rate, gradient_rms)
        if self.refreshing:
            self._refresh(gradient_rms, plan)
            return
        project_([quota for quota in plan if quota.name not in self.places])
        self.values.masked_fill_(~self.is_kept, 0.0)
        torch.index_select(self.values, 0, self.kept_index, out=self.kept_values)
        self._write_back(unless=self.layers)

    def zero_grad(self) -> None:
        super().zero_grad()
        for layer in self.layers.values():
            if layer.watched is not None:
                layer.watched.values.grad = None

    @torch.no_grad()
    def _write_back(self, unless: Container[str] = ()) -> None:
        """Bring the dense weights up to date, but for those that are named."""
        for (name, places), values in zip(self.places.items(), self._split(self.values), strict=True):
            if name not in unless:
                self.parameters[name].view(-1)[places] = values

    def state(self) -> dict[str, Tensor]:
        self._write_back()
        watched = {f"watched.{name}": places for name, places in self.places.items()}
        own = {"watched.exp_avg": self.exp_avg, "watched.exp_avg_sq": self.exp_avg_sq, "watched.is_kept": self.is_kept}
        return {**super().state(), **watched, **own, "ratio": torch.tensor(self.ratio, dtype=torch.float64)}

    def load_state(self, state: dict[str, Tensor], n: int) -> None:
        super().load_state(state, n)
        if "watched.is_kept" not in state:
            raise UserError("the checkpoint is of an earlier fast mode, or of exact mode; train into another directory")
        own = ("exp_avg", "exp_avg_sq", "is_kept")
        device = self.values.device
        self.exp_avg, self.exp_avg_sq, self.is_kept = (state[f"watched.{name}"].to(device, copy=True) for name in own)
        self.ratio = float(state["ratio"])
        self.places = {
            name: state[f"watched.{name}"].to(device) for name in self.parameters if f"watched.{name}" in state
        }
        if self.places and self.places.keys() != self.final.keys():
            raise UserError("the checkpoint is of an earlier fast mode; train into another directory")
        weights = {}
        for (name, places), is_kept in zip(self.places.items(), self._split(self.is_kept), strict=True):
            shape = self.parameters[name]
            weights[name] = at_places(shape, places[is_kept]), at_places(shape, places)
        self._hand_out(weights)

    @torch.no_grad()
    def _refresh(self, gradient_rms: float, plan: Sequence[Quota]) -> None:
        """Every weight has taken its step: choose what is kept and what is watched until the next refresh."""
        self._write_back()
        project_(plan)
        quotas, before, seen = {quota.name: quota for quota in plan}, self.places, 0.0
        falls = any(name not in quotas or quotas[name].k > k for name, k in self.final.items())
        if falls or self.n < self.first:
            return
        moments = dict(zip(self.places, self._split(torch.stack([self.exp_avg, self.exp_avg_sq])), strict=True))
        weights: dict[str, tuple[SparseWeight, SparseWeight]] = {}
        is_kept, moments_of_watched = [], []
        for name, parameter in self.parameters.items():
            gradient = parameter.grad
            if name not in self.final:
                seen += 0.0 if gradient is None else norm([gradient]) ** 2
                continue
            kept, n = compress(parameter), WATCHED * quotas[name].k
            seen += 0.0 if gradient is None else norm([gradient.view(-1)[kept.flat]]) ** 2
            dense = self.moments.pop(name, None)
            if dense is None:
                watched, of_watched = self._watch(parameter, kept, gradient_rms, before[name], moments[name], n)
            else:
                watched = to_watch(dense[0].clone(), kept, n)
                of_watched = torch.stack([moment.view(-1)[watched.flat] for moment in dense])
            weights[name] = kept, watched
            moments_of_watched.append(of_watched)
            is_kept.append(parameter.view(-1)[watched.flat] != 0)
        self.ratio = gradient_rms**2 * self.n_weights / seen if seen > 0 else 1.0
        self.places = {name: watched.flat for name, (_, watched) in weights.items()}
        if weights:
            self.exp_avg, self.exp_avg_sq = torch.cat(moments_of_watched, dim=1)
            self.is_kept = torch.cat(is_kept)
        self._hand_out(weights)

    def _watch(
        self, parameter: nn.Parameter, kept: SparseWeight, rms: float, places: Tensor, known: Tensor, n: int
    ) -> tuple[SparseWeight, Tensor]:
        """What to watch next, and both moments (2, n) of it: those in `known` at `places`, else by one gradient.

        Takes the gradient's memory: a dense matrix is passed over as seldom as can be.
        """
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()
        parameter.grad, share = None, 1 - self.config.betas[0]
        momentum = gradient.mul_(share / (rms or 1.0))
        momentum.view(-1)[places] = known[0]
        watched = to_watch(momentum, kept, n)
        moments = torch.stack([watched.values, (watched.values / share).square_()])
        for moment, values in zip(moments, known, strict=True):
            momentum.view(-1)[watched.flat] = moment
            momentum.view(-1)[places] = values
            moment.copy_(momentum.view(-1)[watched.flat])
        return watched, moments

    def _hand_out(self, weights: Mapping[str, tuple[SparseWeight, SparseWeight]]) -> None:
        """Gather the watched weights of all matrices; a sparse layer gets its part, kept and watched in `weights`."""
        parts = [self.parameters[name].detach().view(-1)[places] for name, places in self.places.items()]
        self.values = torch.cat([self.values[:0], *parts])
        self.kept_index = self.is_kept.nonzero().squeeze(1)
        self.kept_values = self.values[self.kept_index]
        ends = itertools.accumulate(len(kept.values) for kept, _ in weights.values())
        for (name, (kept, watched)), values, end in zip(weights.items(), self._split(self.values), ends, strict=True):
            if name in self.layers:
                of_kept = self.kept_values[end - len(kept.values) : end]
                self.layers[name].kept = replace(kept, values=of_kept)
                self.layers[name].watched = replace(watched, values=values.requires_grad_())

    def _gradient(self, name: str) -> Tensor:
        """That of the watched weights of a matrix: from its sparse layer, or from a dense gradient."""
        layer, dense = self.layers.get(name), self.parameters[name].grad
        if layer is not None and layer.watched is not None:
            gradient = layer.watched.values.grad
        else:
            gradient = None if dense is None else dense.view(-1)[self.places[name]]
        assert gradient is not None, name
        return gradient

    def _split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Vectors (..., all watched weights) as their parts, one for each matrix."""
        return vectors.detach().split([len(places) for places in self.places.values()], dim=-1)


def to_watch(momentum: Tensor, kept: SparseWeight, n: int) -> SparseWeight:
    """A weight of n entries: what is kept, and where else `momentum` is largest in magnitude; of the others zero is
    left in `momentum`, and infinity of the kept.

    Fewer where there is no momentum. The entries' values are what is left in `momentum`.
    """
    momentum.view(-1)[kept.flat] = float("inf")
    keep_topk_(momentum, n, 0, 1)
    return compress(momentum)


@torch.no_grad()
def at_places(like: Tensor, places: Tensor) -> SparseWeight:
    """A sparse weight of the shape of `like`, all of whose values, at `places` of the flat matrix, are 1."""
    marked = torch.zeros_like(like)
    marked.view(-1)[places] = 1.0
    return compress(marked)
