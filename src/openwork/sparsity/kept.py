"""Fast mode: gradients and moments for the kept weights alone, and every R-th step an exact one.

Between two such steps the kept weights of a matrix, its non-zeros, stay the same: the sparse layers give gradients
for them alone, and the moments of all matrices are two vectors as long as their non-zeros. Every `refresh_every` steps
the gradient is dense. Then each matrix takes the step of the exact method, in which zeros may come back and weak
weights go, with these moments:

- what is kept has the moments that it had,
- what was zero has moments of zero, so that m = (1 - beta1) g and v = (1 - beta2) g^2 after the step (the exact method
  would remember the gradients of earlier steps),
- what is dropped forgets its moments.

The density of a matrix therefore falls in stairs of R steps. All vectors, and matrices of which more than `KEPT_BELOW`
is non-zero, are trained by the exact method.

The RMS that the gradient is divided by is meant over all weights. Between refreshes it is estimated as
sqrt(ratio / n * square), where `square` sums the gradient's squares over what has one, n counts all weights, and
`ratio` is that of all squares to those, as it was at the last refresh.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from openwork.kernels import SparseWeight, adam_step_, compress
from openwork.sparsity.engine import SparseLinear
from openwork.sparsity.optimizer import Adam, AdamConfig, norm
from openwork.sparsity.projection import Quota, project_

KEPT_BELOW = 1 / 8
"""Density from which on a matrix is in fast mode; fixed, so that a run is the same method on every machine."""


class KeptAdam(Adam):
    """Adam over the kept weights; `layers` are the model's sparse layers."""

    def __init__(
        self,
        named: Iterable[tuple[str, nn.Parameter]],
        config: AdamConfig,
        layers: Iterable[SparseLinear],
        refresh_every: int,
    ) -> None:
        super().__init__(named, config)
        self.refresh_every, self.refreshing, self.ratio = refresh_every, True, 1.0
        by_weight = {layer.weight: layer for layer in layers}
        self.layers = {name: by_weight[p] for name, p in self.parameters.items() if p in by_weight}
        self.places: dict[str, Tensor] = {}
        """For each matrix in fast mode, the places (n,) of its kept weights in the flat matrix, ascending."""
        self.values = self.exp_avg = self.exp_avg_sq = torch.empty(0)
        """Kept weights and their moments, of all these matrices in a row."""
        self.gradient = torch.empty(0)

    @property
    def n_weights(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters.values())

    def begin(self, step: int) -> None:
        self.refreshing = step % self.refresh_every == 0 or not self.places
        if self.refreshing:
            self.settle()

    def settle(self) -> None:
        self._write_back()
        for layer in self.layers.values():
            layer.kept = None

    def gradient_rms(self) -> float:
        if self.refreshing:
            return super().gradient_rms()
        self.gradient = torch.cat([self._kept_gradient(name) for name in self.places])
        others = [p.grad for name, p in self.parameters.items() if name not in self.places and p.grad is not None]
        return norm([self.gradient, *others]) * (self.ratio / self.n_weights) ** 0.5

    def step(self, rate: float, gradient_rms: float, plan: Sequence[Quota]) -> None:
        self.n += 1
        quotas = {quota.name: quota for quota in plan}
        if self.refreshing:
            self._refresh(rate, gradient_rms, quotas)
            return
        moments, options = (self.exp_avg, self.exp_avg_sq), self.options(rate, gradient_rms)
        adam_step_(self.values, self.gradient, *moments, decay=self.config.weight_decay, **options)
        for name in self.moments:
            self.update(name, *self.moments[name], rate, gradient_rms)
        project_([quota for name, quota in quotas.items() if name not in self.places])
        self._write_back(lookups_only=True)

    def zero_grad(self) -> None:
        super().zero_grad()
        for layer in self.layers.values():
            if layer.kept is not None:
                layer.kept.values.grad = None

    @torch.no_grad()
    def _write_back(self, lookups_only: bool = False) -> None:
        """Bring the dense weights up to date; of those that something beside a sparse layer reads alone, if asked."""
        for (name, places), values in zip(self.places.items(), self._split(self.values), strict=True):
            if not lookups_only or self.parameters[name].grad is not None:
                self.parameters[name].view(-1)[places] = values

    def state(self) -> dict[str, Tensor]:
        self._write_back()
        kept = {f"places.{name}": places for name, places in self.places.items()}
        own = {"kept.exp_avg": self.exp_avg, "kept.exp_avg_sq": self.exp_avg_sq}
        return {**super().state(), **kept, **own, "ratio": torch.tensor(self.ratio, dtype=torch.float64)}

    def load_state(self, state: dict[str, Tensor], n: int) -> None:
        super().load_state(state, n)
        self.exp_avg, self.exp_avg_sq = state["kept.exp_avg"].clone(), state["kept.exp_avg_sq"].clone()
        self.ratio = float(state["ratio"])
        places = {name: state[f"places.{name}"] for name in self.parameters if f"places.{name}" in state}
        self._keep({name: at_places(self.parameters[name], where) for name, where in places.items()}, places)

    @torch.no_grad()
    def _refresh(self, rate: float, rms: float, quotas: Mapping[str, Quota]) -> None:
        """The exact step, one parameter after another, and the choice of what is kept until the next."""
        before = self._dense_moments()
        kept: dict[str, SparseWeight] = {}
        moments_of_kept, seen = [], 0.0
        for name, parameter in self.parameters.items():
            moments = self.moments.pop(name, None) or next(before)
            self.update(name, *moments, rate, rms)
            gradient, quota = parameter.grad, quotas.get(name)
            if quota is not None:
                project_([quota])
            if quota is not None and parameter.dim() == 2 and quota.k <= KEPT_BELOW * parameter.numel():
                kept[name] = compress(parameter)
                places = kept[name].flat
                moments_of_kept.append(torch.stack([moment.view(-1)[places] for moment in moments]))
                gradient = None if gradient is None else gradient.view(-1)[places]
            else:
                self.moments[name] = moments
            seen += 0.0 if gradient is None else norm([gradient]) ** 2
        self.ratio = rms**2 * self.n_weights / seen if seen > 0 else 1.0
        if kept:
            self.exp_avg, self.exp_avg_sq = torch.cat(moments_of_kept, dim=1)
        self._keep(kept, {name: weight.flat for name, weight in kept.items()})

    def _keep(self, weights: Mapping[str, SparseWeight], places: dict[str, Tensor]) -> None:
        """Train these weights alone from now on: their values as one vector, of which every layer has its part."""
        self.places = places
        if weights:
            self.values = torch.cat([weight.values for weight in weights.values()])
        for (name, weight), values in zip(weights.items(), self._split(self.values), strict=True):
            if name in self.layers:
                self.layers[name].kept = replace(weight, values=values.requires_grad_())

    def _kept_gradient(self, name: str) -> Tensor:
        """That of the kept weights of a matrix: from its sparse layer, from a look-up, or (tied) both."""
        layer, dense = self.layers.get(name), self.parameters[name].grad
        parts = [] if dense is None else [dense.view(-1)[self.places[name]]]
        if layer is not None and layer.kept is not None and layer.kept.values.grad is not None:
            parts.append(layer.kept.values.grad)
        return sum(parts[1:], parts[0])

    def _dense_moments(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The moments of each matrix in fast mode as dense tensors, one after another, zeros where nothing is kept."""
        moments = torch.stack([self.exp_avg, self.exp_avg_sq])
        for (name, places), of_kept in zip(self.places.items(), self._split(moments), strict=True):
            dense = torch.zeros(2, *self.parameters[name].shape)
            dense.view(2, -1)[:, places] = of_kept
            yield dense[0], dense[1]

    def _split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Vectors (..., all kept weights) as their parts, one for each matrix."""
        return vectors.detach().split([len(places) for places in self.places.values()], dim=-1)


@torch.no_grad()
def at_places(dense: Tensor, places: Tensor) -> SparseWeight:
    """The weights at `places` of the flat matrix `dense`, zeros among them too."""
    marked = torch.zeros_like(dense)
    marked.view(-1)[places] = 1.0
    return replace(compress(marked), values=dense.view(-1)[places])
