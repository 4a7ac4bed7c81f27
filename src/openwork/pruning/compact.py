"""The circuit's forward pass on slices of the matrices, for many circuits at once.

Only some nodes are of interest, the *universe*: of each matrix their rows and columns are taken, and all else is a
constant, worked out once. The cost follows the universe, not the model. Many circuits within it run as one batch; each
has gates (between 0 and 1) on nodes and on edges. As far as all are alike they run as one: M is then 1. What a circuit
computes is defined by `Circuit.run`; this is the same function, to rounding, of the answers alone.

Shapes: M circuits, P packed tokens of B prompts of T positions, n nodes of a site in the universe, S channels of the
residual stream that any node reads or writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from openwork.model import Transformer, matrices
from openwork.model.transformer import Block
from openwork.pruning.stages import Stage, alike
from openwork.pruning.stream import Stream
from openwork.pruning.universe import Universe
from openwork.tasks import Pairs


class Compact:
    """The forward pass of circuits of one universe on fixed pairs."""

    def __init__(self, model: Transformer, universe: Universe, values: Mapping[str, Tensor], pairs: Pairs) -> None:
        self.model, self.universe, self.values, self.pairs = model, universe, values, pairs
        self.stages = {matrix.target: Stage(model, matrix, universe, values) for matrix in matrices(model)}
        self.stream = Stream(model, universe, values, pairs)

    def differences(self, node: Tensor, edge: Tensor | None = None, which: Tensor | None = None) -> Tensor:
        """Logit differences A - B (M, pair, 2) of M circuits, before calibration.

        Args:
            node: gates (M, nodes); a closed node takes its ablation value.
            edge: gates (M, edges); a closed edge carries its source's ablation value. None: all are open.
            which: numbers of the pairs to run; None: all.
        """
        stream = self.stream.at(which)
        x = stream.embedded[None]
        for layer in range(self.model.config.n_layers):
            for block, site in ((self._attention, f"{layer}.attn"), (self._mlp, f"{layer}.mlp")):
                delta = self._delta(f"{site}.act_in", stream.read(x, site), node)
                x = stream.written(x, block(stream, site, delta, node, edge), site)
        return stream.answers(x).expand(len(node), -1, -1)

    def _attention(self, stream: Stream, site: str, delta: Tensor, node: Tensor, edge: Tensor | None) -> Tensor:
        """What the heads write, (M, P, n), given `delta` (M, P, n) of what they read."""
        q, k, v = (self.stages[f"{site}.{part}"](delta, node, edge) for part in "qkv")
        q, k = self._gated(f"{site}.q", q, node), self._gated(f"{site}.k", k, node)
        heads, moved = (self.universe.kept[f"{site}.{part}"] // self.model.config.d_head for part in "qv")
        outside = self._scores_outside(site)
        parts = [
            self._moved(stream, site, h, q[..., heads == h], k[..., heads == h], v[..., moved == h], outside[h])
            for h in moved.unique().tolist()
        ]
        n = max(map(len, parts), default=1)
        v = torch.cat([part.expand(n, -1, -1) for part in parts], -1) if parts else stream.asking(v, site)
        kept = self.universe.kept[f"{site}.v"]
        moved = self._gate(f"{site}.v", node) * (v - self.values[f"{site}.y"][kept])
        out = self.stages[f"{site}.resid_delta"](moved, node, edge)
        return self._gated(f"{site}.resid_delta", out, node)

    def _mlp(self, stream: Stream, site: str, delta: Tensor, node: Tensor, edge: Tensor | None) -> Tensor:
        """What the neurons write, (M, P, n), given `delta` (M, P, n) of what they read."""
        neurons = self.stages[f"{site}.post_act"](delta, node, edge)
        out = self.stages[f"{site}.resid_delta"](self._delta(f"{site}.post_act", neurons, node), node, edge)
        return self._gated(f"{site}.resid_delta", out, node)

    def _moved(self, stream: Stream, site: str, head: int, q: Tensor, k: Tensor, v: Tensor, constant: Tensor) -> Tensor:
        """What one head moves, (M, P, n), of its channels in the universe, (M, P, n); `constant` is in every score."""
        if not q.shape[-1]:
            q, k = q[:1], k[:1]  # the same in all circuits
        packing, at_last = stream.packing, site == stream.last_attention
        q = packing.at_last(q)[:, :, None] if at_last else packing.unpacked(q)
        pattern = self._pattern(site, head, q @ packing.unpacked(k).mT + constant, packing.hidden(at_last))
        out = pattern @ packing.unpacked(v)
        return out[:, :, 0] if at_last else packing.packed(out)

    def _pattern(self, site: str, head: int, scores: Tensor, hidden: Tensor) -> Tensor:
        """The pattern (M, B, query, key) of one head, of its scores before scaling; the keys `hidden` get none."""
        sink = cast(Block, self.model.blocks[int(site.partition(".")[0])]).attn.sink
        scores = (scores * self.model.config.d_head**-0.5).masked_fill(hidden, -torch.inf)
        if sink is None:
            return scores.softmax(-1)
        sink = sink.detach()[head]
        largest = scores.detach().amax(-1, keepdim=True).maximum(sink)
        weights = (scores - largest).exp()
        return weights / (weights.sum(-1, keepdim=True) + (sink - largest).exp())

    def _scores_outside(self, site: str) -> Tensor:
        """For each head, what the q and k channels outside the universe add to every score, before scaling."""
        q, k = (self.values[f"{site}.{part}"].clone() for part in "qk")
        q[self.universe.kept[f"{site}.q"]] = 0
        return (q * k).view(-1, self.model.config.d_head).sum(-1)

    def _delta(self, site: str, x: Tensor, node: Tensor) -> Tensor:
        """gate * (x - ablation value), of x (M, P, n)."""
        return self._gate(site, node) * (x - self.values[site][self.universe.kept[site]])

    def _gate(self, site: str, node: Tensor) -> Tensor:
        return alike(node[:, self.universe.nodes[site]])[:, None]

    def _gated(self, site: str, x: Tensor, node: Tensor) -> Tensor:
        return self.values[site][self.universe.kept[site]] + self._delta(site, x, node)
