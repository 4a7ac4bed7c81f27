"""What the compact forward pass is made of: matrices on slices, AbsTopK among constants, and the residual stream.

AbsTopK keeps the competition of the whole width. What lies outside the universe is constant, so of k places those that
never fall to any of n nodes are known beforehand: the k - n largest constants keep theirs, and the nodes compete with
the n next ones for n places.

Shapes: M circuits, B prompts, T positions, n nodes of a site in the universe, S channels of the residual stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.kernels import abs_topk
from openwork.model import Matrix, ModelConfig, Transformer
from openwork.model.sites import STREAM_SITES
from openwork.model.transformer import NONLINEARITIES, Block, Sparse
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs

RMS_EPS = torch.finfo(torch.float32).eps


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

    def won(self, entries: Tensor) -> Tensor:
        """1 where an entry (M, B, T, n) keeps its place, else 0."""
        n = entries.shape[-1]
        if self.n_places is None or self.n_places >= n + self.rivals.shape[-1]:
            return entries.new_ones(())
        rivals = self.rivals.expand(*entries.shape[:-1], -1)
        return (abs_topk(torch.cat([entries, rivals], -1), self.n_places)[..., :n] != 0).to(entries)


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
        """Activations (M, B, T, n targets) from `delta` (M, B, T, n sources): the sources less their ablation values.

        A closed node competes for its place with what it would be without any edge.
        """
        z = (delta.flatten(1, 2) @ self._weights(edge)).unflatten(1, delta.shape[1:3]) + self.constant
        x = self.nonlinearity(z)
        is_open = node[:, None, None, self.nodes] > 0
        entries = torch.where(is_open, x.detach(), self.nonlinearity(self.constant))
        return x * self.places.won(entries)

    def _weights(self, edge: Tensor | None) -> Tensor:
        """(n sources, n targets), or (M, n sources, n targets) where edges have gates."""
        if edge is None:
            return self.weight.T
        weight = edge.new_zeros(len(edge), *self.weight.T.shape)
        gated = edge[:, self.edges] * self.weight[self.rows, self.columns]
        return weight.index_put((torch.arange(len(edge))[:, None], self.columns, self.rows), gated)


def _constant(model: Transformer, matrix: Matrix, values: Mapping[str, Tensor]) -> Tensor:
    """What the matrix gives, (width,), where every node that it reads is ablated."""
    constant = matrix.weight @ values[matrix.source]
    bias = dict(model.named_parameters()).get(f"{matrix.name}.bias")
    return constant if bias is None else constant + bias.detach()


class Stream:
    """The residual stream on fixed pairs: the S channels that nodes read or write, and what is known of the others."""

    def __init__(self, model: Transformer, universe: Universe, values: Mapping[str, Tensor], pairs: Pairs) -> None:
        self.model, self.config, self.universe = model, model.config, universe
        touched = [kept for site, kept in universe.kept.items() if site.endswith(("act_in", "resid_delta"))]
        self.channels = torch.cat(touched).unique()
        self.channels = self.channels[self.channels < self.config.d_model]  # behind them stand positions
        self.sparse = Sparse(self.config)
        if self.config.norm == "layer" or self.sparse.sites & set(STREAM_SITES):
            self.channels = torch.arange(self.config.d_model)  # by mean or AbsTopK each depends on every other
        self.outside = torch.ones(self.config.d_model, dtype=torch.bool)
        self.outside[self.channels] = False
        self.relu = F.relu if self.config.residual_activation == "relu" else lambda x: x
        self.norms = {}
        for layer, block in enumerate(model.blocks):
            self.norms |= {f"{layer}.attn": block.attn_norm, f"{layer}.mlp": block.mlp_norm}
        self.others = {
            f"{site}.resid_delta": self._written_by_others(f"{site}.resid_delta", values) for site in self.norms
        }
        self.positions = {site: self._read_positions(site, pairs.tokens.shape[-1]) for site in self.norms}
        self._read_prompts(values, pairs)

    def _read_positions(self, site: str, length: int) -> Tensor:
        """What ``site.act_in`` reads of concatenated positions, (T, d_position), or (T, 0) without."""
        layer, _, part = site.partition(".")
        norms = cast(Block, self.model.blocks[int(layer)]).position_norms
        if norms is None:
            return torch.zeros(length, 0)
        return norms[int(part == "mlp")](self.model.position[:length]).detach()

    def _written_by_others(self, site: str, values: Mapping[str, Tensor]) -> Tensor:
        """(S,): what the channels of `site` outside the universe write."""
        written = values[site].clone()
        written[self.universe.kept[site]] = 0
        return written[self.channels]

    def _read_prompts(self, values: Mapping[str, Tensor], pairs: Pairs) -> None:
        model, tokens = self.model, pairs.flat
        x = model.embed(tokens).detach()
        if self.config.positions == "learned":
            x = x + model.position[: tokens.shape[1]].detach()
        self.embedded, x = x[..., self.channels], x[..., self.outside]
        self.squares, self.places = {}, {}
        for site, norm in self.norms.items():
            self.squares[site] = x.square().sum(-1, keepdim=True)
            seen = x * norm.weight.detach()[self.outside]
            n = len(self.channels) + self.positions[site].shape[-1]
            self.places[site] = Places.of(self.config, f"{site}.act_in", n, seen)
            x = self.relu(x + values[f"{site}.resid_delta"][self.outside])
        self.last = pairs.last.repeat_interleave(2)
        each = torch.arange(len(self.last))
        a, b = (answer.repeat_interleave(2) for answer in pairs.right.unbind(1))
        unembed = (model.unembed.weight[a] - model.unembed.weight[b]).detach()
        reads = unembed * model.final_norm.weight.detach()
        self.reads = reads[:, self.channels]
        x = x[each, self.last]
        self.final_squares, self.final_outside = x.square().sum(-1), (x * reads[:, self.outside]).sum(-1)
        self.bias = torch.zeros(len(self.last))
        if model.final_norm.bias is not None:
            self.bias += unembed @ model.final_norm.bias.detach()
        if model.unembed.bias is not None:
            self.bias += (model.unembed.bias[a] - model.unembed.bias[b]).detach()
        if self.config.bigram != "off":
            row = tokens[each, self.last]
            self.bias += (model.bigram[row, a] - model.bigram[row, b]).detach()

    def at(self, which: Tensor | None) -> Stream:
        """The same stream on the pairs `which` alone; None: on all."""
        if which is None:
            return self
        prompts = torch.stack([2 * which, 2 * which + 1], 1).flatten()
        some = object.__new__(Stream)
        some.__dict__.update(self.__dict__)
        for name in ("embedded", "last", "reads", "final_squares", "final_outside", "bias"):
            setattr(some, name, getattr(self, name)[prompts])
        some.squares = {site: squares[prompts] for site, squares in self.squares.items()}
        some.places = {site: replace(places, rivals=places.rivals[prompts]) for site, places in self.places.items()}
        return some

    def read(self, x: Tensor, site: str) -> Tensor:
        """What the nodes of ``site.act_in`` read, (M, B, T, n), of the stream x (M, B, T, S)."""
        norm = self.norms[site]
        normed, entries, unit = self._normed(x, norm, self.squares[site], norm.weight.detach()[self.channels])
        positions = self.positions[site].expand(*x.shape[:-1], -1)
        normed, entries = torch.cat([normed, positions], -1), torch.cat([entries, positions * unit], -1)
        kept = self._positions(f"{site}.act_in")
        return (normed * self.places[site].won(entries.detach()))[..., kept]

    def written(self, x: Tensor, delta: Tensor, site: str) -> Tensor:
        """The stream after the nodes of ``site.resid_delta`` wrote `delta` (M, B, T, n)."""
        after = "resid_mid" if site.endswith("attn") else "resid_out"
        site = f"{site}.resid_delta"
        x = x + self.others[site]
        if delta.shape[-1]:
            x = x.index_add(-1, self._positions(site), delta)
        return self.sparse(after, self.relu(x))

    def answers(self, x: Tensor) -> Tensor:
        """Logit differences A - B (M, pair, 2) of the stream x at the end."""
        x = x[:, torch.arange(len(self.last)), self.last]
        if self.config.norm == "layer":
            normed = F.layer_norm(x, x.shape[-1:], eps=1e-5)
            found = (normed * self.reads).sum(-1)
        else:
            mean_square = (x.square().sum(-1) + self.final_squares) / self.config.d_model
            found = ((x * self.reads).sum(-1) + self.final_outside) * (mean_square + RMS_EPS).rsqrt()
        return (found + self.bias).unflatten(-1, (-1, 2))

    def _normed(self, x: Tensor, norm, squares: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised stream, what orders its magnitudes in units in which those outside are known, and the unit."""
        if self.config.norm == "layer":
            normed = norm(x)
            return normed, normed, normed.new_ones(())
        entries = x * weight
        mean_square = (x.square().sum(-1, keepdim=True) + squares) / self.config.d_model
        return entries * (mean_square + RMS_EPS).rsqrt(), entries, (mean_square + RMS_EPS).sqrt()

    def _positions(self, site: str) -> Tensor:
        """Where the nodes of `site` stand: in S, and behind it those of concatenated positions."""
        kept, d_model = self.universe.kept[site], self.config.d_model
        in_stream = torch.searchsorted(self.channels, kept.clamp(max=d_model - 1))
        return torch.where(kept < d_model, in_stream, kept - d_model + len(self.channels))
