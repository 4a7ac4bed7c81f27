"""The residual stream of the compact forward pass: what its nodes read and write, and what is known of the rest.

Shapes: M circuits, 1 as long as all are alike, B prompts, T positions, n nodes of a site in the universe, S channels
of the residual stream that any node reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.model import Transformer
from openwork.model.sites import STREAM_SITES
from openwork.model.transformer import Block, Sparse
from openwork.pruning.stages import Places
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs

RMS_EPS = torch.finfo(torch.float32).eps


class Stream:
    """The residual stream on fixed pairs: the S channels that nodes read or write, and what is known of the others.

    The answer is read at the last position of each prompt alone, so from the last attention's queries on T is 1.
    """

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
        self.last_attention = next(reversed([site for site in self.norms if site.endswith("attn")]))
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
        self.last = pairs.last.repeat_interleave(2)
        length, each = tokens.shape[1], torch.arange(len(self.last))
        self.future = torch.ones(length, length, dtype=torch.bool).triu(1)
        x = model.embed(tokens).detach()
        if self.config.positions == "learned":
            x = x + model.position[:length].detach()
        self.embedded, x = x[..., self.channels], x[..., self.outside]
        self.squares, self.positions, self.places = {}, {}, {}
        where = torch.arange(length).expand(len(tokens), -1)
        for site, norm in self.norms.items():
            self.positions[site] = self._read_positions(site, length)[where]
            self.squares[site] = x.square().sum(-1, keepdim=True)
            seen = x * norm.weight.detach()[self.outside]
            n = len(self.channels) + self.positions[site].shape[-1]
            self.places[site] = Places.of(self.config, f"{site}.act_in", n, seen)
            x, where = self.asking(x[None], site)[0], self.last[:, None] if site == self.last_attention else where
            x = self.relu(x + values[f"{site}.resid_delta"][self.outside])
        a, b = (answer.repeat_interleave(2) for answer in pairs.right.unbind(1))
        unembed = (model.unembed.weight[a] - model.unembed.weight[b]).detach()
        reads = unembed * model.final_norm.weight.detach()
        self.reads, x = reads[:, self.channels], x[:, 0]
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
        some.positions = {site: positions[prompts] for site, positions in self.positions.items()}
        some.places = {site: replace(places, rivals=places.rivals[prompts]) for site, places in self.places.items()}
        return some

    def asking(self, x: Tensor, site: str) -> Tensor:
        """Of x (M, B, T, n) the positions at which `site` writes: all; in the last attention the last, (M, B, 1, n)."""
        return x[:, torch.arange(len(self.last)), self.last, None] if site == self.last_attention else x

    def hidden(self, site: str) -> Tensor:
        """The keys, (query, key) or (B, 1, key), that come after a query of `site`."""
        return self.future[self.last, None] if site == self.last_attention else self.future

    def read(self, x: Tensor, site: str) -> Tensor:
        """What the nodes of ``site.act_in`` read, (M, B, T, n), of the stream x (M, B, T, S)."""
        kept, places, positions = self._positions(f"{site}.act_in"), self.places[site], self.positions[site]
        if not len(kept):
            return x.new_zeros(1, *x.shape[1:3], 0)
        x, weight, scale = self._normed(x, site)
        in_stream = kept[kept < len(self.channels)]
        read = x[..., in_stream] * weight[in_stream] * scale
        if len(in_stream) < len(kept):
            of_positions = positions[..., kept[len(in_stream) :] - len(self.channels)]
            read = torch.cat([read, of_positions.expand(len(read), -1, -1, -1)], -1)
        if not places.contested(len(self.channels) + positions.shape[-1]):
            return read
        entries = (x * weight).detach()  # in units in which what lies outside is known: before the scale
        if positions.shape[-1]:
            entries = torch.cat([entries, positions / scale.detach()], -1)
        return read * places.won(entries)[..., kept]

    def written(self, x: Tensor, delta: Tensor, site: str) -> Tensor:
        """The stream after the nodes of ``site.resid_delta`` wrote `delta` (M, B, T, n)."""
        after = "resid_mid" if site.endswith("attn") else "resid_out"
        x = self.asking(x, site) + self.others[f"{site}.resid_delta"]
        if delta.shape[-1]:
            delta = delta.expand(max(len(x), len(delta)), -1, -1, -1)
            x = x.expand(len(delta), -1, -1, -1).index_add(-1, self._positions(f"{site}.resid_delta"), delta)
        return self.sparse(after, self.relu(x))

    def answers(self, x: Tensor) -> Tensor:
        """Logit differences A - B (M, pair, 2) of the stream x (M, B, 1, S) at the end."""
        x = x[:, :, 0]
        if self.config.norm == "layer":
            normed = F.layer_norm(x, x.shape[-1:], eps=1e-5)
            found = (normed * self.reads).sum(-1)
        else:
            mean_square = (x.square().sum(-1) + self.final_squares) / self.config.d_model
            found = ((x * self.reads).sum(-1) + self.final_outside) * (mean_square + RMS_EPS).rsqrt()
        return (found + self.bias).unflatten(-1, (-1, 2))

    def _normed(self, x: Tensor, site: str) -> tuple[Tensor, Tensor, Tensor]:
        """The stream x (M, B, T, S) as `site` normalises it: a product of three, the last one (M, B, T, 1)."""
        norm = self.norms[site]
        if self.config.norm == "layer":
            return norm(x), x.new_ones(x.shape[-1]), x.new_ones(*x.shape[:3], 1)
        mean_square = (x.square().sum(-1, keepdim=True) + self.squares[site]) / self.config.d_model
        return x, norm.weight.detach()[self.channels], (mean_square + RMS_EPS).rsqrt()

    def _positions(self, site: str) -> Tensor:
        """Where the nodes of `site` stand: in S, and behind it those of concatenated positions."""
        kept, d_model = self.universe.kept[site], self.config.d_model
        in_stream = torch.searchsorted(self.channels, kept.clamp(max=d_model - 1))
        return torch.where(kept < d_model, in_stream, kept - d_model + len(self.channels))
