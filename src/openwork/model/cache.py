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
        assert end <= self.n_ctx, (end, self.n_ctx)
        self.keys[:, self.length : end], self.values[:, self.length : end] = keys, values
        self.length = end
        return self.keys[:, :end], self.values[:, :end]
