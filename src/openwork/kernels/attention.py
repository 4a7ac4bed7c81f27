"""Causal attention with a sink for small heads, by the compiled kernels; `fits` says where they can be used.

There are two: one for any keys and values, and one that skips the channels which AbsTopK made zero in them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from openwork.kernels import library
from openwork.kernels.skipping import mostly_zero

D_HEADS = (16, 32, 64)
LONG, FEW_LEFT = 128, 1 / 3
"""Tokens of a text from which on, and the fraction of channels left in keys and values up to which, skipping is the
faster way (`openwork bench kernels`)."""


def fits(q: Tensor, k: Tensor, v: Tensor, d_head: int) -> bool:
    """Whether `attention` can take these; else use PyTorch's operators."""
    return d_head in D_HEADS and library.here(q, k, v) and q.numel() > 0


def attention(q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None, kept: int = 0) -> Tensor:
    """Attention of q (batch, queries, heads * d_head) to k and v (batch, keys, ...), with sink logits (heads,) or none.

    The queries are those of the last of the keys' positions. Differentiable once, where there are as many as keys.
    If AbsTopK made k and v, `kept` is how many channels of a position it kept: gradients are then made for these alone,
    and may be zero for the others, where AbsTopK lets none pass.
    """
    q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
    if torch.is_grad_enabled():
        return _Attention.apply(q, k, v, d_head, sink, kept)
    return _forward(q, k, v, d_head, sink, _skips(q, k, v))[0]


def _skips(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether to skip what is zero in k and v."""
    return q.shape == k.shape and q.shape[1] >= LONG and all(mostly_zero(x.flatten(0, 1), FEW_LEFT) for x in (k, v))


def _forward(q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None, skips: bool) -> tuple[Tensor, Tensor]:
    batch, queries, width = q.shape
    y, lse = torch.empty_like(q), q.new_empty(batch, width // d_head, queries)
    if skips:
        library.call("selected_attention", q, k, v, sink, y, lse, batch, width // d_head, queries, d_head)
    else:
        library.call("attention", q, k, v, sink, y, lse, batch, width // d_head, queries, k.shape[1], d_head)
    return y, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None, kept: int) -> Tensor:
        skips = _skips(q, k, v)
        y, lse = _forward(q, k, v, d_head, sink, skips)
        cuts = [library.abs_topk_zero_cut(x, kept) for x in (k, v)] if skips and kept else []
        ctx.save_for_backward(q, k, v, sink, y, lse, *cuts)
        ctx.d_head = d_head
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, sink, y, lse, *cuts = ctx.saved_tensors
        if q.shape != k.shape:
            raise RuntimeError(f"no gradient with {q.shape[1]} queries and {k.shape[1]} keys; give as many of each")
        dq, dk, dv = (torch.empty_like(q) for _ in range(3))
        dsink, sizes = lse.new_empty(lse.shape[:2]), (*lse.shape, ctx.d_head)
        inputs = (dy.contiguous(), q, k, v, sink, y, lse)
        if cuts:
            library.call("selected_attention_backward", *inputs, *cuts, dq, dk, dv, dsink, *sizes)
        else:
            library.call("attention_backward", *inputs, dq, dk, dv, dsink, *sizes)
        return dq, dk, dv, None, None if sink is None else dsink.sum(0), None
