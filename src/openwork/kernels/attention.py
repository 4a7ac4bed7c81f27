"""Causal attention with a sink for small heads, by the compiled kernel; `fits` says where it can be used."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from openwork.kernels import library

D_HEADS = (16, 32, 64)


def fits(q: Tensor, k: Tensor, v: Tensor, d_head: int) -> bool:
    """Whether `attention` can take these; else use PyTorch's operators."""
    return d_head in D_HEADS and library.here(q, k, v) and q.numel() > 0


def attention(q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None) -> Tensor:
    """Attention of q (batch, queries, heads * d_head) to k and v (batch, keys, ...), with sink logits (heads,) or none.

    The queries are those of the last of the keys' positions. Differentiable once, where there are as many as keys.
    """
    if torch.is_grad_enabled():
        return _Attention.apply(q, k, v, d_head, sink)
    return _forward(q.contiguous(), k.contiguous(), v.contiguous(), d_head, sink)[0]


def _forward(q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    batch, queries, width = q.shape
    y, lse = torch.empty_like(q), torch.empty(batch, width // d_head, queries)
    library.call("attention", q, k, v, sink, y, lse, batch, width // d_head, queries, k.shape[1], d_head)
    return y, lse


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        y, lse = _forward(q, k, v, d_head, sink)
        ctx.save_for_backward(q, k, v, y, lse, sink)
        ctx.d_head = d_head
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        q, k, v, y, lse, sink = ctx.saved_tensors
        if q.shape != k.shape:
            raise RuntimeError(f"no gradient with {q.shape[1]} queries and {k.shape[1]} keys; give as many of each")
        (batch, heads, length), d_head = lse.shape, ctx.d_head
        dq, dk, dv = (torch.empty_like(q) for _ in range(3))
        dsink = torch.empty(batch, heads)
        inputs = (dy.contiguous(), q, k, v, sink, y, lse)
        library.call("attention_backward", *inputs, dq, dk, dv, dsink, batch, heads, length, d_head)
        return dq, dk, dv, None, None if sink is None else dsink.sum(0)
