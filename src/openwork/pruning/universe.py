"""The universe of a search: some nodes of a model and the weights between them, numbered: circuits are vectors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.artifacts import Edge
from openwork.model import Transformer, matrices, node_name, node_sites


@dataclass(frozen=True)
class Universe:
    """Some nodes of a model and all non-zero weights between them, numbered in forward order."""

    kept: dict[str, Tensor]
    """For every node site the indices of its nodes, ascending; q and k of a layer have the same."""
    nodes: dict[str, slice]
    """For every node site, the numbers of its nodes."""
    edges: dict[str, slice]
    """For every target site, the numbers of its edges."""
    source: Tensor
    """(edges,): the number of each edge's source node."""
    target: Tensor
    weight: Tensor

    @classmethod
    def of(cls, model: Transformer, kept: Mapping[str, Tensor]) -> Universe:
        """All of `kept`, where a site that it lacks has no nodes."""
        whole = {site: kept.get(site, torch.zeros(0, dtype=torch.int64)) for site in node_sites(model.config)}
        for site in whole:
            if site.endswith("attn.q"):
                both = torch.cat([whole[site], whole[_twin(site)]]).unique()
                whole[site] = whole[_twin(site)] = both
        nodes, n = {}, 0
        for site, indices in whole.items():
            nodes[site] = slice(n, n + len(indices))
            n += len(indices)
        edges, sources, targets, weights, n = {}, [], [], [], 0
        for matrix in matrices(model):
            part = matrix.weight[whole[matrix.target]][:, whole[matrix.source]]
            rows, columns = part.nonzero().unbind(1)
            edges[matrix.target] = slice(n, n + len(rows))
            n += len(rows)
            sources.append(columns + nodes[matrix.source].start)
            targets.append(rows + nodes[matrix.target].start)
            weights.append(part[rows, columns])
        return cls(whole, nodes, edges, torch.cat(sources), torch.cat(targets), torch.cat(weights))

    @property
    def n_nodes(self) -> int:
        return max(stretch.stop for stretch in self.nodes.values())

    @property
    def n_edges(self) -> int:
        return len(self.source)

    def ends(self, edge: Tensor) -> Tensor:
        """Nodes (M, nodes) that are an end of any open edge (M, edges), and their q or k twins: 1 or 0.

        A k channel that the circuit reads is nothing without the q channel that it is multiplied with, even where that
        holds its bias alone.
        """
        node = edge.new_zeros(*edge.shape[:-1], self.n_nodes)
        for index in (self.source, self.target):
            node = node.scatter_reduce(-1, index.expand(edge.shape), edge, "amax")
        for site, q in self.nodes.items():
            if site.endswith("attn.q"):
                k = self.nodes[_twin(site)]
                node[..., q] = node[..., k] = torch.maximum(node[..., q], node[..., k])
        return node

    def reached(self, edge: Tensor) -> Tensor:
        """Nodes (M, nodes) that do not need an edge of edge (M, edges), or that one reaches: 1 or 0.

        A value or a neuron that no edge reaches is a constant. Its ablation value is one too: another constant would
        be a bias that the model does not have.
        """
        node = edge.new_zeros(*edge.shape[:-1], self.n_nodes)
        node = node.scatter_reduce(-1, self.target.expand(edge.shape), edge, "amax")
        for site, stretch in self.nodes.items():
            if not site.endswith(("attn.v", "post_act")):
                node[..., stretch] = 1
        return node

    def supplied(self, edge: Tensor) -> Tensor:
        """Edges (M, edges) without those that leave a node that no open edge of edge (M, edges) reaches."""
        return edge * self.reached(edge.detach())[..., self.source]

    def between(self, node: Tensor) -> Tensor:
        """Edges (M, edges) whose two ends are open in node (M, nodes)."""
        return node[..., self.source] * node[..., self.target]

    def part(self, model: Transformer, node: Tensor) -> tuple[Universe, Tensor, Tensor]:
        """The universe of the open nodes of node (nodes,), q and k alike; which nodes (nodes,) and which edges (edges,)
        it has, as booleans."""
        chosen = node > 0
        return Universe.of(model, self.kept_by(chosen)), chosen, chosen[self.source] & chosen[self.target]

    def kept_by(self, node: Tensor) -> dict[str, Tensor]:
        """For each site with any, the indices of the nodes that are open in node (nodes,)."""
        found = {site: self.kept[site][node[stretch] > 0] for site, stretch in self.nodes.items()}
        return {site: indices for site, indices in found.items() if len(indices)}

    def edges_of(self, edge: Tensor, d_head: int) -> tuple[Edge, ...]:
        """The open edges of edge (edges,), by name, in forward order."""
        names = [node_name(site, i, d_head) for site, index in self.kept.items() for i in index.tolist()]
        chosen = (column[edge > 0].tolist() for column in (self.source, self.target, self.weight))
        return tuple(Edge(names[source], names[target], weight) for source, target, weight in zip(*chosen, strict=True))


def _twin(site: str) -> str:
    return site.replace("attn.q", "attn.k")
