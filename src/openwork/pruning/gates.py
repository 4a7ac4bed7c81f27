"""Gates on nodes: one parameter tau per gate, open where tau > 0 (paper, 2.2 and A.5).

The gates of a model are one flat vector. Each node site has its stretch of it; q and k of a layer share theirs, since a
q channel without its k channel multiplies a constant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import Edit
from openwork.model import ModelConfig, node_sites


@dataclass(frozen=True)
class Gates:
    """Where in the flat vector of gates each node site has its own."""

    stretch: dict[str, slice]
    """For each node site, in forward order, its stretch of the vector."""
    n: int
    """Length of the vector."""

    @classmethod
    def of(cls, config: ModelConfig) -> Gates:
        stretch, n = {}, 0
        for site, width in node_sites(config).items():
            if site.endswith("attn.k"):
                stretch[site] = stretch[site.replace("attn.k", "attn.q")]
            else:
                stretch[site] = slice(n, n + width)
                n += width
        return cls(stretch, n)

    def nodes_per_gate(self) -> Tensor:
        """How many nodes each gate opens (n,): 2 where q and k share it, else 1."""
        count = torch.zeros(self.n)
        for stretch in self.stretch.values():
            count[stretch] += 1
        return count

    def kept(self, open_gates: Tensor) -> dict[str, Tensor]:
        """For each node site with any, the indices of its open nodes; `open_gates` (n,) is boolean."""
        found = {site: open_gates[stretch].nonzero().squeeze(1) for site, stretch in self.stretch.items()}
        return {site: indices for site, indices in found.items() if len(indices)}

    def edits(self, gate: Tensor, values: dict[str, Tensor]) -> dict[str, Edit]:
        """For each node site x -> gate * x + (1 - gate) * value; gate (n,) is 0 or 1, values[site] (width,)."""

        def edit_of(site: str) -> Edit:
            g, value = gate[self.stretch[site]], values[site]
            return lambda x: torch.addcmul(value * (1 - g), x, g)

        return {site: edit_of(site) for site in self.stretch}


class StepGate(torch.autograd.Function):
    """Heaviside(tau) forward; backward the derivative of sigmoid(tau / temperature)."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(tau)
        ctx.temperature = temperature
        return (tau > 0).to(tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tau,) = ctx.saved_tensors
        s = torch.sigmoid(tau / ctx.temperature)
        return grad * s * (1 - s) / ctx.temperature, None
