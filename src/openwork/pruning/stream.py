"""The residual stream of the compact forward pass: what its nodes read and write, and what is known of the rest.

Shapes: M circuits, 1 as long as all are alike, P packed tokens, n nodes of a site in the universe, S channels of the
residual stream that any node reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.kernels.passes import EPS
from openwork.model import Transformer
from openwork.model.sites import STREAM_SITES
from openwork.model.transformer import Block, Sparse
from openwork.pruning.packing import Packing
from openwork.pruning.stages import Places
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs


class Stream:
    """The residual stream on fixed pairs: the S channels that nodes read or write, and what is known of the others.

    The answer is read at the last position of each of the B prompts alone, so from the last attention's queries on
    these alone are left, and P is B.
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
        *_, self.last_attention, self.last_mlp = self.norms
        self._read_prompts(values, pairs)

    def _read_positions(self, site: str, position: Tensor) -> Tensor:
        """What ``site.act_in`` reads of concatenated positions, (P, d_position), or (P, 0) without."""
        layer, _, part = site.partition(".")
        norms = cast(Block, self.model.blocks[int(layer)]).position_norms
        if norms is None:
            return torch.zeros(len(position), 0)
        return norms[int(part == "mlp")](self.model.position[position]).detach()

    def _written_by_others(self, site: str, values: Mapping[str, Tensor]) -> Tensor:
        """(S,): what the channels of `site` outside the universe write."""
        written = values[site].clone()
        written[self.universe.kept[site]] = 0
        return written[self.channels]

    def _read_prompts(self, values: Mapping[str, Tensor], pairs: Pairs) -> None:
        model = self.model
        self.packing = Packing.of(pairs)
        position, token = self.packing.position, pairs.flat.flatten()[self.packing.origin]
        x = model.embed(token).detach()
        if self.config.positions == "learned":
            x = x + model.position[position].detach()
        self.embedded, x = x[..., self.channels], x[..., self.outside]
        self.squares, self.positions, self.places = {}, {}, {}
        for site, norm in self.norms.items():
            self.positions[site] = self._read_positions(site, position)
            self.squares[site] = x.square().sum(-1, keepdim=True)
            seen = x * norm.weight.detach()[self.outside]
            n = len(self.channels) + self.positions[site].shape[-1]
            self.places[site] = Places.of(self.config, f"{site}.act_in", n, seen)
            if site == self.last_attention:
                x, position = self.packing.at_last(x[None])[0], self.packing.last
            x = self.relu(x + values[f"{site}.resid_delta"][self.outside])
        a, b = (answer.repeat_interleave(2) for answer in pairs.right.unbind(1))
        unembed = (model.unembed.weight[a] - model.unembed.weight[b]).detach()
        reads = unembed * model.final_norm.weight.detach()
        self.reads = reads[:, self.channels]
        self.final_squares, self.final_outside = x.square().sum(-1), (x * reads[:, self.outside]).sum(-1)
        self.bias = torch.zeros(len(a))
        if model.final_norm.bias is not None:
            self.bias += unembed @ model.final_norm.bias.detach()
        if model.unembed.bias is not None:
            self.bias += (model.unembed.bias[a] - model.unembed.bias[b]).detach()
        if self.config.bigram != "off":
            row = self.packing.at_last(token[None, :, None]).flatten()
            self.bias += (model.bigram[row, a] - model.bigram[row, b]).detach()

    def at(self, which: Tensor | None) -> Stream:
        """The same stream on the pairs `which` alone; None: on all."""
        if which is None:
            return self
        some = object.__new__(Stream)
        some.__dict__.update(self.__dict__)
        some.packing, tokens = self.packing.at(which)
        prompts = torch.stack([2 * which, 2 * which + 1], 1).flatten()
        for name in ("reads", "final_squares", "final_outside", "bias"):
            setattr(some, name, getattr(self, name)[prompts])
        some.embedded = self.embedded[tokens]
        chosen = {site: prompts if site == self.last_mlp else tokens for site in self.norms}
        some.squares = {site: squares[chosen[site]] for site, squares in self.squares.items()}
        some.positions = {site: positions[chosen[site]] for site, positions in self.positions.items()}
        some.places = {
            site: replace(places, rivals=places.rivals[chosen[site]]) for site, places in self.places.items()
        }
        return some

    def asking(self, x: Tensor, site: str) -> Tensor:
        """Of x (M, P, n) what stands where `site` writes: all; in the last attention the last positions, (M, B, n)."""
        return self.packing.at_last(x) if site == self.last_attention else x

    def read(self, x: Tensor, site: str) -> Tensor:
        """What the nodes of ``site.act_in`` read, (M, P, n), of the stream x (M, P, S)."""
        kept, places, positions = self._positions(f"{site}.act_in"), self.places[site], self.positions[site]
        if not len(kept):
            return x.new_zeros(1, x.shape[1], 0)
        x, weight, scale = self._normed(x, site)
        in_stream = kept[kept < len(self.channels)]
        read = x[..., in_stream] * weight[in_stream] * scale
        if len(in_stream) < len(kept):
            of_positions = positions[..., kept[len(in_stream) :] - len(self.channels)]
            read = torch.cat([read, of_positions.expand(len(read), -1, -1)], -1)
        if not places.contested(len(self.channels) + positions.shape[-1]):
            return read
        entries = (x * weight).detach()  # in units in which what lies outside is known: before the scale
        if positions.shape[-1]:
            entries = torch.cat([entries, positions / scale.detach()], -1)
        return read * places.won(entries)[..., kept]

    def written(self, x: Tensor, delta: Tensor, site: str) -> Tensor:
        """The stream after the nodes of ``site.resid_delta`` wrote `delta` (M, P, n)."""
        after = "resid_mid" if site.endswith("attn") else "resid_out"
        x = self.asking(x, site) + self.others[f"{site}.resid_delta"]
        if delta.shape[-1]:
            delta = delta.expand(max(len(x), len(delta)), -1, -1)
            x = x.expand(len(delta), -1, -1).index_add(-1, self._positions(f"{site}.resid_delta"), delta)
        return self.sparse(after, self.relu(x))

    def answers(self, x: Tensor) -> Tensor:
        """Logit differences A - B (M, pair, 2) of the stream x (M, B, S) at the end."""
        if self.config.norm == "layer":
            normed = F.layer_norm(x, x.shape[-1:], eps=1e-5)
            found = (normed * self.reads).sum(-1)
        else:
            mean_square = (x.square().sum(-1) + self.final_squares) / self.config.d_model
            found = ((x * self.reads).sum(-1) + self.final_outside) * (mean_square + EPS).rsqrt()
        return (found + self.bias).unflatten(-1, (-1, 2))

    def _normed(self, x: Tensor, site: str) -> tuple[Tensor, Tensor, Tensor]:
        """The stream x (M, P, S) as `site` normalises it: a product of three, the last one (M, P, 1)."""
        norm = self.norms[site]
        if self.config.norm == "layer":
            return norm(x), x.new_ones(x.shape[-1]), x.new_ones(*x.shape[:2], 1)
        mean_square = (x.square().sum(-1, keepdim=True) + self.squares[site]) / self.config.d_model
        return x, norm.weight.detach()[self.channels], (mean_square + EPS).rsqrt()

    def _positions(self, site: str) -> Tensor:
        """Where the nodes of `site` stand: in S, and behind it those of concatenated positions."""
        kept, d_model = self.universe.kept[site], self.config.d_model
        in_stream = torch.searchsorted(self.channels, kept.clamp(max=d_model - 1))
        return torch.where(kept < d_model, in_stream, kept - d_model + len(self.channels))
