"""Pairs of prompts without what repeats or does not matter: the compact forward pass runs on what is left.

Members of a pair begin alike, so up to their first difference one stands for both; and nothing that comes after the
position where the answer is due can change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.tasks import Pairs


@dataclass(frozen=True)
class Packing:
    """Where the P packed tokens of n pairs come from, and where the T positions of the B = 2n prompts find them."""

    origin: Tensor
    """(P,): the number, among B * T, of each packed token; those of a pair stand together."""
    place: Tensor
    """(B, T): the packed token of each position; behind the last one that counts, that one again."""
    last: Tensor
    """(B,): the last position of each prompt."""
    ends: Tensor
    """(n + 1,): where the packed tokens of each pair begin, and the end."""

    @classmethod
    def of(cls, pairs: Pairs) -> Packing:
        tokens, last = pairs.tokens, pairs.last[:, None]
        position = torch.arange(tokens.shape[-1])
        first = (tokens[:, 0] != tokens[:, 1]).int().argmax(1)[:, None]
        counts = position <= last
        own = torch.stack([counts, counts & (position >= first)], 1)
        number = own.flatten().cumsum(0).view_as(own) - 1
        place = torch.stack([number[:, 0], torch.where(position < first, number[:, 0], number[:, 1])], 1)
        ends = torch.cat([torch.zeros(1, dtype=torch.int64), own.sum((1, 2)).cumsum(0)])
        return cls(own.flatten().nonzero().squeeze(1), place.flatten(0, 1), pairs.last.repeat_interleave(2), ends)

    @property
    def n(self) -> int:
        """P."""
        return len(self.origin)

    @property
    def position(self) -> Tensor:
        """(P,): the position of each packed token."""
        return self.origin % self.place.shape[1]

    def at_last(self, x: Tensor) -> Tensor:
        """Of x (M, P, n) what stands where the answers are due, (M, B, n)."""
        return x.index_select(1, self.place.gather(1, self.last[:, None]).squeeze(1))

    def unpacked(self, x: Tensor) -> Tensor:
        """x (M, P, n) by prompt and position, (M, B, T, n)."""
        return x.index_select(1, self.place.flatten()).unflatten(1, self.place.shape)

    def packed(self, x: Tensor) -> Tensor:
        """(M, P, n) of x (M, B, T, n)."""
        return x.flatten(1, 2).index_select(1, self.origin)

    def hidden(self, at_last: bool) -> Tensor:
        """The keys that come after a query: (query, key), or, for the last queries alone, (B, 1, key)."""
        key = torch.arange(self.place.shape[1])
        return key > (self.last[:, None, None] if at_last else key[:, None])

    def at(self, which: Tensor) -> tuple[Packing, Tensor]:
        """The packing of the pairs `which` alone, and the numbers here of its tokens."""
        n_positions, starts = self.place.shape[1], self.ends[which]
        stretches = zip(starts.tolist(), self.ends[which + 1].tolist(), strict=True)
        tokens = torch.cat([torch.arange(start, end) for start, end in stretches])
        ends = torch.cat([self.ends[:1], (self.ends[which + 1] - starts).cumsum(0)])
        prompts = torch.stack([2 * which, 2 * which + 1], 1).flatten()
        place = self.place[prompts] + (ends[:-1] - starts).repeat_interleave(2)[:, None]
        pair = torch.arange(len(which)).repeat_interleave(ends.diff())
        origin = self.origin[tokens] + 2 * n_positions * (pair - which[pair])
        return Packing(origin, place, self.last[prompts], ends), tokens
