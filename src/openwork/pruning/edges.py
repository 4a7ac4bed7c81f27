"""Edges: the non-zero weights between nodes (paper, 2.2).

A head's pattern and the residual stream carry values from node to node without weights of their own. An edge is an
entry of one of six matrices per layer; the value channel of a head stands for the output channel that its head moves it
to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from openwork.artifacts import Edge
from openwork.model import Transformer, node_name

MATRICES = (
    ("attn.act_in", "attn.q.weight", "attn.q"),
    ("attn.act_in", "attn.k.weight", "attn.k"),
    ("attn.act_in", "attn.v.weight", "attn.v"),
    ("attn.v", "attn.out.weight", "attn.resid_delta"),
    ("mlp.act_in", "mlp.up.weight", "mlp.post_act"),
    ("mlp.post_act", "mlp.down.weight", "mlp.resid_delta"),
)
"""Source site, matrix (target, source), target site; without the layer."""


def matrices(model: Transformer) -> Iterator[tuple[str, Tensor, str]]:
    """Source site, weight (target width, source width), target site of each matrix between nodes, in forward order."""
    parameters = dict(model.named_parameters())
    for layer in range(model.config.n_layers):
        for source, name, target in MATRICES:
            yield f"{layer}.{source}", parameters[f"blocks.{layer}.{name}"].detach(), f"{layer}.{target}"


def edges_between(model: Transformer, kept: Mapping[str, Tensor]) -> tuple[Edge, ...]:
    """Every non-zero weight between two kept nodes; `kept` has the indices of each site."""
    d_head, found = model.config.d_head, []
    for source, weight, target in matrices(model):
        if source not in kept or target not in kept:
            continue
        part = weight[kept[target]][:, kept[source]]
        for row, column in part.nonzero().tolist():
            source_name = node_name(source, int(kept[source][column]), d_head)
            target_name = node_name(target, int(kept[target][row]), d_head)
            found.append(Edge(source_name, target_name, float(part[row, column])))
    return tuple(found)


def count_possible_edges(model: Transformer) -> int:
    """Non-zero weights between nodes in the whole model."""
    return sum(int(torch.count_nonzero(weight)) for _, weight, _ in matrices(model))
