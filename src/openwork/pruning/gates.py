"""Gates: one parameter tau per gate, open where tau > 0 (paper, 2.2 and A.5)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from openwork.pruning.universe import Universe


class StepGate(torch.autograd.Function):
    """Heaviside(tau) forward; backward the derivative of sigmoid(tau)."""

    @staticmethod
    def forward(ctx: Any, tau: Tensor) -> Tensor:
        ctx.save_for_backward(tau)
        return (tau > 0).to(tau)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (tau,) = ctx.saved_tensors
        s = torch.sigmoid(tau)
        return grad * s * (1 - s)


def gate_of_node(universe: Universe) -> Tensor:
    """For each node (nodes,) the number of its gate: each its own, but q and k of a layer share theirs, since a q
    channel without its k channel multiplies a constant."""
    gate = torch.arange(universe.n_nodes)
    for site, stretch in universe.nodes.items():
        if site.endswith("attn.k"):
            gate[stretch] = gate[universe.nodes[site.replace("attn.k", "attn.q")]]
    return gate.unique(return_inverse=True)[1]
