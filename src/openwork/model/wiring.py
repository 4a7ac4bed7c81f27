"""Wiring: the matrices between nodes, and the model's parameters when only some of their weights carry activations.

A head's pattern and the residual stream carry values from node to node without weights of their own. An edge is an
entry of one of six matrices per layer; the value channel of a head stands for what its head moves of it, ``attn.y``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openwork.artifacts import Edge
from openwork.model.sites import parse_node

if TYPE_CHECKING:
    from openwork.model.transformer import Transformer

MATRICES = (
    ("attn.act_in", "attn.q"),
    ("attn.act_in", "attn.k"),
    ("attn.act_in", "attn.v"),
    ("attn.v", "attn.out", "attn.resid_delta"),
    ("mlp.act_in", "mlp.up", "mlp.post_act"),
    ("mlp.post_act", "mlp.down", "mlp.resid_delta"),
)
"""Source site, linear layer (left out where it is named like its target), target site; without the number."""


@dataclass(frozen=True)
class Matrix:
    """One matrix between nodes."""

    source: str
    """Site of its columns."""
    target: str
    """Site of its rows; no other matrix has the same."""
    name: str
    """Of its linear layer, such as ``blocks.0.attn.q``."""
    weight: Tensor
    """(target width, source width)."""

    @property
    def argument(self) -> str:
        """Site of what it multiplies: its source, but what the heads move of it where that is ``attn.v``."""
        return self.source.replace("attn.v", "attn.y")


def matrices(model: Transformer) -> Iterator[Matrix]:
    """The matrices between nodes, in forward order."""
    parameters = dict(model.named_parameters())
    for layer in range(model.config.n_layers):
        for source, *between, target in MATRICES:
            name = f"blocks.{layer}.{between[0] if between else target}"
            yield Matrix(f"{layer}.{source}", f"{layer}.{target}", name, parameters[f"{name}.weight"].detach())


def weights_of(model: Transformer, edges: Iterable[Edge], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The parameters with which `model` runs `edges` alone.

    Every other weight between nodes multiplies an ablation value, `values` (width,) of each site: a constant, which
    joins the target's bias. Behind a head that is the mean of what it moves, not of the value channel: a pattern with a
    sink adds up to less than one. Biases, norms, sinks, embeddings and positions are the model's own.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    for edge in edges:
        site, row = parse_node(edge.target, model.config.d_head)
        places.setdefault(site, []).append((row, parse_node(edge.source, model.config.d_head)[1]))
    parameters, found = dict(model.named_parameters()), {}
    for matrix in matrices(model):
        out = matrix.weight.clone()
        if matrix.target in places:
            rows, columns = torch.tensor(places[matrix.target], device=out.device).unbind(1)
            out[rows, columns] = 0
        constant = out @ values[matrix.argument].to(out)
        bias = parameters.get(f"{matrix.name}.bias")
        found[f"{matrix.name}.weight"] = matrix.weight - out
        found[f"{matrix.name}.bias"] = constant if bias is None else bias.detach() + constant
    return found
