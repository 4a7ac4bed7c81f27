"""Attention with a sink, exact, without a T x T mask or pattern in memory.

Small heads go through a kernel of this package (`openwork.kernels.attention`), the others, and all on a GPU, through
PyTorch's fused ones. There, the sink is one more key whose value is zero: with s = scores and b = the sink's logit,

    y = sum_j exp(s_j) v_j / (exp(b) + sum_j exp(s_j)) = sigmoid(logsumexp(s) - b) * attention(q, k, v)

Flash attention also returns logsumexp(s). Handed the output and the logsumexp *with* the sink, its own backward pass
gives the exact gradients of q, k and v; the sink's is -p_sink * sum(dy * y). Where it is missing, the sink is an extra
key.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels.attention import attention, fits

_exporting = getattr(
    torch.compiler, "is_exporting", torch.compiler.is_compiling
)  # the former is there since PyTorch 2.7


def attend(q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None, kept: int = 0) -> Tensor:
    """Causal attention of q, k, v, each (batch, position, heads * d_head), with sink logits (heads,) or none.

    The queries may be fewer than keys and values: they are those of the last positions. `kept`, if k and v come
    straight from AbsTopK, is how many channels it kept: no others need a gradient.

    Raises:
        UserError: the shapes do not fit together.
    """
    if k.shape != v.shape or q.shape[::2] != k.shape[::2] or q.shape[1] > k.shape[1]:
        shapes = ", ".join(str(tuple(x.shape)) for x in (q, k, v))
        raise UserError(f"queries, keys and values of the shapes {shapes} do not fit together")
    batch, length, width = q.shape
    if width % d_head or (sink is not None and sink.shape != (width // d_head,)):
        sinks = "none" if sink is None else tuple(sink.shape)
        raise UserError(f"{width} channels, heads of {d_head} and sink logits {sinks} do not fit together")
    if fits(q, k, v, d_head):
        return attention(q, k, v, d_head, sink if sink is None else sink.to(q), kept)
    q_BHTK, k_BHTK, v_BHTK = (x.unflatten(-1, (-1, d_head)).transpose(1, 2) for x in (q, k, v))
    if length < k.shape[1]:
        y_BHTK = attention_pattern(q, k, d_head, sink) @ v_BHTK
    elif sink is None:
        y_BHTK = F.scaled_dot_product_attention(q_BHTK, k_BHTK, v_BHTK, is_causal=True)
    elif _has_flash(q_BHTK) and not _exporting():  # an exported graph loses our backward pass
        y_BHTK = _SinkAttention.apply(q_BHTK, k_BHTK, v_BHTK, sink)
    else:
        y_BHTK = _extra_key_attention(q_BHTK, k_BHTK, v_BHTK, sink)
    return y_BHTK.transpose(1, 2).reshape(batch, length, width)


def _has_flash(q: Tensor) -> bool:
    """Whether PyTorch's flash attention takes q (batch, head, position, channel)."""
    if q.is_cpu:
        return q.dtype == torch.float32 and q.numel() > 0
    if not q.is_cuda or not torch.backends.cuda.is_flash_attention_available():
        return False
    short = q.dtype in (torch.bfloat16, torch.float16)
    return short and q.shape[-1] in range(8, 257, 8) and torch.cuda.get_device_capability(q.device) >= (8, 0)


class _SinkAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
        if q.is_cpu:
            y, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, True)
        else:
            y, lse, *ctx.rest, _ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, True)
        lse_with_sink = torch.logaddexp(lse, sink[:, None])
        y = y * torch.exp(lse - lse_with_sink)[..., None].to(y.dtype)
        ctx.save_for_backward(q, k, v, sink, y, lse_with_sink)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # pyright: ignore
        q, k, v, sink, y, lse = ctx.saved_tensors
        if q.is_cpu:
            backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
            dq, dk, dv = backward(dy, q, k, v, y, lse, 0.0, True)
        else:
            *lengths, seed, offset = ctx.rest
            backward = torch.ops.aten._scaled_dot_product_flash_attention_backward
            dq, dk, dv = backward(dy, q, k, v, y, lse, *lengths, 0.0, True, seed, offset)
        p_sink = torch.exp(sink[:, None] - lse)
        return dq, dk, dv, -(p_sink * (dy * y).sum(-1)).sum((0, 2))


def _extra_key_attention(q: Tensor, k: Tensor, v: Tensor, sink: Tensor) -> Tensor:
    """The sink as key 0: one more channel carries its logit; a first query, dropped, keeps the mask square.

    Fused kernels want channels in eights, so there are as many more.
    """
    d_head, more = q.shape[-1], 8 - q.shape[-1] % 8
    marker = F.pad(q.new_ones(1), (d_head, more - 1))
    sink_key = sink.to(q)[:, None, None] * d_head**0.5 * marker
    q, k, v = (F.pad(x, (0, more, 1, 0)) for x in (q, k, v))
    k = k + F.pad(sink_key, (0, 0, 0, k.shape[-2] - 1))
    y = F.scaled_dot_product_attention(q + marker, k, v, is_causal=True, scale=d_head**-0.5)
    return y[..., 1:, :d_head]


def attention_pattern(q: Tensor, k: Tensor, d_head: int, sink: Tensor | None) -> Tensor:
    """The pattern itself, (batch, head, query, key), for reading: it costs T x T memory per head."""
    batch, length, keys = *q.shape[:2], k.shape[1]
    q_BHTK, k_BHTK = (x.unflatten(-1, (-1, d_head)).transpose(1, 2) for x in (q, k))
    scores = q_BHTK @ k_BHTK.transpose(-1, -2) * d_head**-0.5
    later = torch.ones(length, keys, device=q.device).triu(1 + keys - length).bool()
    scores = scores.masked_fill(later, -torch.inf)
    if sink is None:
        return scores.softmax(-1)
    with_sink = torch.cat([sink[:, None, None].expand(batch, -1, length, 1), scores], dim=-1)
    return with_sink.softmax(-1)[..., 1:]
