"""Edges: the non-zero weights between nodes (paper, 2.2)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from openwork.artifacts import Edge
from openwork.model import Transformer, matrices, node_name


def edges_between(model: Transformer, kept: Mapping[str, Tensor]) -> tuple[Edge, ...]:
    """Every non-zero weight between two kept nodes; `kept` has the indices of each site."""
    d_head, found = model.config.d_head, []
    for matrix in matrices(model):
        sources, targets = kept.get(matrix.source), kept.get(matrix.target)
        if sources is None or targets is None:
            continue
        part = matrix.weight[targets][:, sources]
        for row, column in part.nonzero().tolist():
            source = node_name(matrix.source, int(sources[column]), d_head)
            target = node_name(matrix.target, int(targets[row]), d_head)
            found.append(Edge(source, target, float(part[row, column])))
    return tuple(found)


def count_possible_edges(model: Transformer) -> int:
    """Non-zero weights between nodes in the whole model."""
    return sum(int(torch.count_nonzero(matrix.weight)) for matrix in matrices(model))
