"""What each node does for the task, from gradients of the whole model: the start of the search, and its baselines.

The vector of all nodes of a model runs through its node sites in forward order.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openwork.artifacts import Edit
from openwork.model import Transformer, node_sites
from openwork.tasks import Pairs

ALPHAS = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Where the path from all ablated to the whole model is probed."""


def integrated_gradients(model: Transformer, values: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
    """How much each node (nodes,) lowers the loss, in nats, on the straight path from all ablated to the whole model.

    Each node's x -> value + alpha (x - value), for all nodes at once; the gradient of the loss by a node's own alpha,
    averaged over the path.
    """
    total = torch.zeros(sum(node_sites(model.config).values()))
    for alpha in ALPHAS:
        gates = {site: torch.full((w,), alpha).requires_grad_() for site, w in node_sites(model.config).items()}
        edits = {site: _gated(gate, values[site]) for site, gate in gates.items()}
        loss = pairs.loss(model.run(pairs.flat, edit=edits, due=pairs.due)[0])
        total -= torch.cat(torch.autograd.grad(loss, list(gates.values())))
    return total / len(ALPHAS)


def influence(model: Transformer, values: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
    """The largest first-order change of a prompt's answer that ablating a node (nodes,) at one position makes."""
    seen: dict[str, Tensor] = {}

    def watch(site: str) -> Edit:
        def edit(x: Tensor) -> Tensor:
            seen[site] = x if x.requires_grad else x.requires_grad_()
            return seen[site]

        return edit

    edit = {site: watch(site) for site in node_sites(model.config)}
    logits = model.run(pairs.flat, edit=edit, due=pairs.due)[0]
    gradients = torch.autograd.grad(pairs.differences(logits).sum(), list(seen.values()), allow_unused=True)
    found = []
    for (site, x), gradient in zip(seen.items(), gradients, strict=True):
        change = torch.zeros_like(x) if gradient is None else gradient * (x.detach() - values[site])
        found.append(change.abs().amax((0, 1)))
    return torch.cat(found)


@torch.no_grad()
def magnitude(model: Transformer, values: Mapping[str, Tensor], pairs: Pairs) -> Tensor:
    """The mean distance of each node (nodes,) from its ablation value at the positions of the task's prompts."""
    recorded = model.run(pairs.flat, record=list(node_sites(model.config)), due=pairs.due)[1]
    inside = torch.arange(pairs.flat.shape[1]) <= pairs.due[:, None]  # no padding
    return torch.cat([(recorded[site] - values[site])[inside].abs().mean(0) for site in node_sites(model.config)])


def split_by_site(model: Transformer, chosen: Tensor) -> dict[str, Tensor]:
    """For every node site, the indices of its nodes among the `chosen` (nodes,) of the whole model."""
    widths = node_sites(model.config)
    parts = chosen.split(list(widths.values()))
    return {site: part.nonzero().squeeze(1) for site, part in zip(widths, parts, strict=True)}


def _gated(gate: Tensor, value: Tensor) -> Edit:
    return lambda x: torch.addcmul(value * (1 - gate), x, gate)
