"""The kernels in plain PyTorch: the same results to the bit, on any device and type, slower.

The magnitude of a float, read as an integer, orders like the float (NaN above infinity above the rest), so the k-th largest is
found by bisection over its bits: 31 counts, no sort, exact.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each row of x (..., d) with its k largest magnitudes kept and zeros elsewhere, and the row's ``zero_cut`` (...,).

    ``zero_cut`` is the last index at which a zero was kept, -1 where none was: so kept = (y != 0) | (index <= zero_cut).
    """
    keys = magnitudes(x)
    bound = kth_largest(keys, k)
    kept = _keep(keys, bound, k)
    index = torch.arange(x.shape[-1], device=x.device)
    zero_cut = torch.where(kept & (keys == 0), index, -1).amax(-1) if x.numel() else bound.squeeze(-1)
    return torch.where(kept, x, 0), zero_cut.int()


def abs_topk_backward(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    """The gradient of x: that of y where an entry was kept, zero elsewhere."""
    index = torch.arange(y.shape[-1], device=y.device)
    return torch.where((y != 0) | (index <= zero_cut[..., None]), dy, 0)


def keep_topk_(weight: Tensor, k: int, floor: int, axis: Literal[0, 1]) -> None:
    """Zero all but the k largest magnitudes of weight (rows, cols), the `floor` largest of each line among the kept."""
    keys = magnitudes(weight).long()
    if floor:
        lines = keys if axis == 1 else keys.T
        own = _keep(lines, kth_largest(lines, min(floor, lines.shape[1])), min(floor, lines.shape[1]))
        keys = keys + (own if axis == 1 else own.T).long() * 2**40
    flat = keys.reshape(1, -1)
    weight.masked_fill_(~_keep(flat, kth_largest(flat, k), k).view_as(weight), 0.0)


def magnitudes(x: Tensor) -> Tensor:
    """Integers that order like |x|, of the width of x's type."""
    integer = _INTEGER[x.element_size()]
    return x.detach().contiguous().view(integer) & torch.iinfo(integer).max


def kth_largest(keys: Tensor, k: int) -> Tensor:
    """The k-th largest of each row of keys (..., d), non-negative integers; shape (..., 1)."""
    low = torch.zeros(*keys.shape[:-1], 1, dtype=torch.int64, device=keys.device)
    bits = int(keys.max()).bit_length() if keys.numel() else 0
    for bit in reversed(range(bits)):
        middle = low | (1 << bit)
        low = torch.where((keys >= middle).sum(-1, keepdim=True) >= k, middle, low)
    return low


def _keep(keys: Tensor, bound: Tensor, k: int) -> Tensor:
    """Which entries are kept: all above the bound, and of those equal to it the first ones, k in all."""
    above, equal = keys > bound, keys == bound
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))
