"""The kernels in plain PyTorch: the same results to the bit, on any device and type, slower.

The magnitude of a float, read as an integer, orders like the float (all NaNs are made one integer, above infinity), so
the k-th largest is one that no NaN hides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Each row of x (..., d) with its k largest magnitudes kept, zeros elsewhere; and each row's ``zero_cut`` (...,).

    ``zero_cut``, int32, is the last index at which a zero was kept, -1 where none was. So what was kept is known
    without a mask in memory: (y != 0) | (index <= zero_cut).
    """
    keys = magnitudes(x)
    kept = _kept(keys, k)
    index = torch.arange(x.shape[-1], device=x.device, dtype=torch.int32)
    zero_cut = torch.where(kept & (keys == 0), index, -1).amax(-1)
    return torch.where(kept, x.detach(), 0), zero_cut


def abs_topk_backward(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    """The gradient of x: that of y where an entry was kept, zero elsewhere."""
    index = torch.arange(y.shape[-1], device=y.device)
    return torch.where((y != 0) | (index <= zero_cut.unsqueeze(-1)), dy, 0)


def keep_topk_each_(wanted: Sequence[tuple[Tensor, int, int, int]]) -> None:
    """For each (weight, k, floor, axis), zero all but k entries of weight (rows, cols): the `floor` largest of each
    line, then the largest of all others.

    A line is a row (axis 1) or a column (axis 0), at least `floor` long; lines * floor <= k, 0 < k < rows * cols.
    """
    for weight, k, floor, axis in wanted:
        keys = magnitudes(weight)
        if floor:
            lines = keys if axis == 1 else keys.T
            own = _kept(lines, floor)
            keys = keys.masked_fill(own if axis == 1 else own.T, torch.iinfo(keys.dtype).max)
        weight.masked_fill_(~_kept(keys.reshape(1, -1), k).view_as(weight), 0)


def magnitudes(x: Tensor) -> Tensor:
    """Integers, as wide as x's type, that order like |x|; all NaNs give the same one, infinity's plus 1."""
    if not x.is_floating_point() or x.element_size() not in _INTEGER:
        raise TypeError(f"magnitudes of {x.dtype} cannot be compared; use float16, bfloat16, float32 or float64")
    integer = _INTEGER[x.element_size()]
    infinity = torch.tensor(float("inf"), dtype=x.dtype, device="cpu").view(integer).item()
    keys = x.detach().contiguous().view(integer) & torch.iinfo(integer).max
    return keys.clamp(max=infinity + 1)


def _kept(keys: Tensor, k: int) -> Tensor:
    """Which k of each row of keys (..., d) are kept: all above the k-th largest, the first of those equal to it."""
    bound = keys.topk(k, sorted=False).values.amin(-1, keepdim=True)
    above, equal = keys > bound, keys == bound
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


def compress(weight: Tensor, below: float = math.inf) -> list[Tensor] | None:
    """The non-zeros of weight (rows, cols), indices in int32; None unless they are less than that fraction of it.

    By rows: starts (rows + 1,), columns and values (n,). By columns: t_starts (cols + 1,), t_rows (n,), and order (n,),
    the places of their values in ``values``.
    """
    rows, cols = weight.detach().nonzero(as_tuple=True)
    if len(rows) >= below * weight.numel():
        return None
    order = cols.argsort(stable=True)

    def starts(line: Tensor, n: int) -> Tensor:
        return F.pad(torch.bincount(line, minlength=n).cumsum(0), (1, 0)).int()

    by_rows = (starts(rows, weight.shape[0]), cols.int(), weight.detach()[rows, cols])
    return [*by_rows, starts(cols, weight.shape[1]), rows[order].int(), order.int()]


def sparse_linear(
    x: Tensor, starts: Tensor, columns: Tensor, values: Tensor, bias: Tensor | None, d_out: int
) -> Tensor:
    """x (..., d_in) times the weight (d_out, d_in) whose starts, columns, values `compress` gave, plus bias (d_out,).

    A weight that is zero multiplies nothing, not even a NaN or an infinity.
    """
    x_ND = x.detach().reshape(-1, x.shape[-1])
    indices = torch.stack([_lines(starts), columns.long()])
    weight = torch.sparse_coo_tensor(
        indices, values.detach(), (d_out, x.shape[-1]), device=x.device, check_invariants=False
    )
    y = torch.sparse.mm(weight, x_ND.T).T.reshape(*x.shape[:-1], d_out)
    return (y if bias is None else y + bias.detach()).contiguous()


def sparse_vector(
    x: Tensor, t_starts: Tensor, t_rows: Tensor, t_values: Tensor, bias: Tensor | None, d_out: int
) -> Tensor:
    """As `sparse_linear`, of a weight by columns and a few x (..., d_in); a zero in x meets no weight, not even NaN."""
    x_ND = x.detach().reshape(-1, x.shape[-1])
    weight = torch.zeros(d_out, x.shape[-1], dtype=x.dtype, device=x.device)
    weight[t_rows.long(), _lines(t_starts)] = t_values.detach()
    products = torch.where((x_ND[:, None] == 0) | (weight == 0), 0, x_ND[:, None] * weight)
    y = products.sum(-1).reshape(*x.shape[:-1], d_out)
    return y if bias is None else y + bias.detach()


def sparse_linear_backward(
    dy: Tensor,
    x: Tensor,
    starts: Tensor,
    columns: Tensor,
    values: Tensor,
    t_starts: Tensor,
    t_rows: Tensor,
    order: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of `sparse_linear`: of x, of the weights at starts and columns alone, and of the bias.

    Those places may be the non-zeros, or more; values, t_starts, t_rows and order are of the non-zeros.
    """
    dx = sparse_linear(dy, t_starts, t_rows, values[order], None, x.shape[-1])
    dy_NO, x_NI = dy.reshape(-1, dy.shape[-1]), x.detach().reshape(-1, x.shape[-1])
    return dx, (dy_NO.T @ x_NI)[_lines(starts), columns.long()], dy_NO.sum(0)


def adam_step_(
    parameter: Tensor,
    gradient: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    scale: float,
    beta1: float,
    beta2: float,
    eps: float,
    size: float,
    root: float,
    shrink: float,
) -> None:
    """In place, with g = gradient * scale: m += (1 - beta1) (g - m), v = beta2 v + (1 - beta2) g^2, and then
    parameter = shrink * parameter - size * m / (sqrt(v) / root + eps)."""
    gradient = gradient * scale
    exp_avg.lerp_(gradient, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    parameter.mul_(shrink).addcdiv_(exp_avg, exp_avg_sq.sqrt().div_(root).add_(eps), value=-size)


def _lines(starts: Tensor) -> Tensor:
    """The line of each non-zero."""
    return torch.arange(len(starts) - 1, device=starts.device).repeat_interleave(starts.diff())
