"""The key/value cache: what earlier positions left behind, so that a new token costs one position."""

from __future__ import annotations

import torch
from torch import Tensor


class LayerCache:
    """Keys and values of one layer, each (batch, position, heads * d_head), for up to `n_ctx` positions."""

    def __init__(self, n_ctx: int) -> None:
        self.n_ctx, self.length = n_ctx, 0
        self.keys = self.values = torch.empty(0)

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Append those of new positions; returns all so far."""
        if self.length == 0:
            self.keys, self.values = (x.new_empty(x.shape[0], self.n_ctx, x.shape[2]) for x in (keys, values))
        end = self.length + keys.shape[1]
        assert end <= self.n_ctx and len(keys) == len(self.keys), (end, self.n_ctx, len(keys), len(self.keys))
        for all_so_far, new in ((self.keys, keys), (self.values, values)):
            all_so_far.narrow(1, self.length, end - self.length).copy_(new)
        self.length = end
        return self.keys.narrow(1, 0, end), self.values.narrow(1, 0, end)
