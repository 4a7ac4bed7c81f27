"""What the compact forward pass is made of: matrices on slices, and AbsTopK among constants.

AbsTopK keeps the competition of the whole width. What lies outside the universe is constant, so of k places those that
never fall to any of n nodes are known beforehand: the k - n largest constants keep theirs, and the nodes compete with
the n next ones for n places.

Shapes: M circuits, P packed tokens, n nodes of a site in the universe.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.kernels import abs_topk
from openwork.model import Matrix, ModelConfig, Transformer
from openwork.model.transformer import NONLINEARITIES
from openwork.pruning.universe import Universe


@dataclass(frozen=True)
class Places:
    """AbsTopK among nodes and the constants around them."""

    n_places: int | None
    """Places for the nodes and their rivals; None where every node has one."""
    rivals: Tensor
    """The constants (..., n) to which nodes may lose their place."""

    @classmethod
    def of(cls, config: ModelConfig, site: str, n: int, constants: Tensor) -> Places:
        """For `n` nodes of `site` among `constants` (..., width - n)."""
        n_constants = constants.shape[-1]
        k = max(1, int((n + n_constants) * config.activation_fraction))
        if site.partition(".")[2] not in config.sparse_sites or k >= n + n_constants or n == 0:
            return cls(None, constants[..., :0])
        safe = max(0, k - n)
        largest = constants.abs().topk(min(k, n_constants)).values
        return cls(k - safe, largest[..., safe:])

    def contested(self, n: int) -> bool:
        """Whether any of `n` entries may lose its place."""
        return self.n_places is not None and self.n_places < n + self.rivals.shape[-1]

    def won(self, entries: Tensor) -> Tensor:
        """Whether an entry (M, P, n) keeps its place; () where every one does."""
        n = entries.shape[-1]
        if self.n_places is None or not self.contested(n):
            return torch.ones((), dtype=torch.bool)
        rivals = self.rivals.expand(*entries.shape[:-1], -1)
        return abs_topk(torch.cat([entries, rivals], -1), self.n_places)[..., :n] != 0


class Stage:
    """One matrix, with the nonlinearity and AbsTopK behind it, from nodes to nodes of a universe."""

    def __init__(self, model: Transformer, matrix: Matrix, universe: Universe, values: Mapping[str, Tensor]) -> None:
        rows, columns = universe.kept[matrix.target], universe.kept[matrix.source]
        constant = _constant(model, matrix, values)
        of_neurons = NONLINEARITIES[model.config.activation]
        self.nonlinearity: Callable[[Tensor], Tensor] = (
            of_neurons if matrix.target.endswith("post_act") else lambda x: x
        )
        self.constant, self.weight = constant[..., rows], matrix.weight[rows][:, columns]
        self.nodes, self.edges = universe.nodes[matrix.target], universe.edges[matrix.target]
        self.rows = universe.target[self.edges] - self.nodes.start
        self.columns = universe.source[self.edges] - universe.nodes[matrix.source].start
        outside = torch.ones(constant.shape[-1], dtype=torch.bool)
        outside[rows] = False
        self.places = Places.of(model.config, matrix.target, len(rows), self.nonlinearity(constant[..., outside]))

    def __call__(self, delta: Tensor, node: Tensor, edge: Tensor | None) -> Tensor:
        """Activations (M, P, n targets) from `delta` (M, P, n sources): the sources less their ablation values.

        A closed node competes for its place with what it would be without any edge.
        """
        x = self.nonlinearity(delta @ self._weights(edge) + self.constant)
        is_open = alike(node[:, self.nodes])[:, None] > 0
        entries = torch.where(is_open, x.detach(), self.nonlinearity(self.constant))
        return x * self.places.won(entries)

    def _weights(self, edge: Tensor | None) -> Tensor:
        """(n sources, n targets), or (M, n sources, n targets) where circuits differ in their edges."""
        if edge is None:
            return self.weight.T
        edge = alike(edge[:, self.edges])
        gated = edge * self.weight[self.rows, self.columns]
        weight = edge.new_zeros(len(edge), *self.weight.T.shape)
        weight = weight.index_put((torch.arange(len(edge))[:, None], self.columns, self.rows), gated)
        return weight[0] if len(edge) == 1 else weight


def alike(gate: Tensor) -> Tensor:
    """Gates (M, n); (1, n) where all circuits have the same, so that what follows from them is computed once.

    Not where gradients are asked for: each circuit gets its own.
    """
    return gate if gate.requires_grad or not torch.equal(gate, gate[:1].expand_as(gate)) else gate[:1]


def _constant(model: Transformer, matrix: Matrix, values: Mapping[str, Tensor]) -> Tensor:
    """What the matrix gives, (width,), where every node that it reads is ablated."""
    constant = matrix.weight @ values[matrix.argument]
    bias = dict(model.named_parameters()).get(f"{matrix.name}.bias")
    return constant if bias is None else constant + bias.detach()
