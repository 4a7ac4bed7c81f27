"""Attention with a sink against its definition in float64, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels.attention import attention, fits
from openwork.model.attention import attend
from tests.kernels.engines import LEVELS, engine, kept_by_sorting

compiled = pytest.mark.parametrize("name", LEVELS)


def by_definition(q: Tensor, k: Tensor, v: Tensor, d_head: int, sink: Tensor | None) -> Tensor:
    q_BHTK, k_BHTK, v_BHTK = (x.double().unflatten(-1, (-1, d_head)).transpose(1, 2) for x in (q, k, v))
    scores = q_BHTK @ k_BHTK.transpose(-1, -2) / d_head**0.5
    queries, keys = scores.shape[-2:]
    later = torch.ones(queries, keys).triu(1 + keys - queries).bool()
    scores = scores.masked_fill(later, -torch.inf)
    if sink is not None:
        column = sink.double()[:, None, None].expand(*scores.shape[:2], queries, 1)
        scores = torch.cat([scores, column], -1)
    pattern = scores.softmax(-1)[..., :keys]
    return (pattern @ v_BHTK).transpose(1, 2).flatten(2)


def tensors(batch: int, queries: int, keys: int, width: int, scale: float = 1.0) -> list[Tensor]:
    random = torch.Generator().manual_seed(queries + keys)
    lengths = (queries, keys, keys)
    return [(torch.randn(batch, n, width, generator=random) * scale).requires_grad_() for n in lengths]


@compiled
@pytest.mark.parametrize("with_sink", [True, False])
@pytest.mark.parametrize("d_head", [16, 32, 64])
@pytest.mark.parametrize("length", [1, 3, 4, 15, 16, 17, 50, 130])
def test_output_and_gradients_are_those_of_the_definition(name, d_head, length, with_sink):
    q, k, v = tensors(2, length, length, 3 * d_head, 2.0)
    sink = torch.tensor([0.5, -3.0, 9.0], requires_grad=True) if with_sink else None
    inputs = [q, k, v, *([] if sink is None else [sink])]
    with engine(name):
        assert fits(q, k, v, d_head)
        y = attention(q, k, v, d_head, sink)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        ours = torch.autograd.grad(y, inputs, dy)
    want = by_definition(q, k, v, d_head, sink)
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)
    for a, b in zip(ours, torch.autograd.grad(want, inputs, dy.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@compiled
@pytest.mark.parametrize("d_head", [16, 32, 64])
@pytest.mark.parametrize("with_sink", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(1, 1), (1, 16), (1, 17), (1, 100), (3, 5), (7, 33)])
def test_queries_are_the_last_of_the_keys(name, queries, keys, with_sink, d_head):
    q, k, v = tensors(2, queries, keys, 2 * d_head)
    sink = torch.tensor([0.5, -3.0]) if with_sink else None
    with engine(name), torch.no_grad():
        y = attention(q, k, v, d_head, sink)
    torch.testing.assert_close(y.double(), by_definition(q, k, v, d_head, sink), rtol=1e-4, atol=1e-5)


@compiled
@pytest.mark.parametrize("heads", [8, 9, 21])
def test_a_single_query_of_many_heads(name, heads):
    q, k, v = tensors(2, 1, 19, heads * 16)
    sink = torch.linspace(-3, 3, heads)
    with engine(name), torch.no_grad():
        y = attention(q, k, v, 16, sink)
    torch.testing.assert_close(y.double(), by_definition(q, k, v, 16, sink), rtol=1e-4, atol=1e-5)


@compiled
def test_a_single_query_sees_what_is_not_finite_in_its_own_head(name):
    for which in range(3):
        inputs = list(tensors(1, 1, 21, 32))
        inputs[which] = inputs[which].detach().clone()
        inputs[which][0, -1, 3] = float("nan")
        with engine(name), torch.no_grad():
            y = attention(*inputs, 16, torch.zeros(2))[0, 0]
        assert y[3].isnan() and y[16:].isfinite().all() and (which == 2 or y[:16].isnan().all()), which


@compiled
def test_scores_of_any_size(name):
    q, k, v = tensors(1, 20, 20, 16, 40.0)
    with engine(name), torch.no_grad():
        y = attention(q, k, v, 16, torch.tensor([-500.0]))
    torch.testing.assert_close(y.double(), by_definition(q, k, v, 16, torch.tensor([-500.0])), rtol=1e-3, atol=1e-3)


@compiled
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_spoils_later_positions_and_no_earlier_one(name, value):
    for which in range(3):
        inputs = [x.detach().clone() for x in tensors(1, 24, 24, 16)]
        inputs[which][0, 10, 3] = value
        with engine(name):
            y = attention(*inputs, 16, torch.zeros(1))
        assert y[0, :10].isfinite().all() and not y[0, 10].isfinite().all()
        assert not y[0, 20].isfinite().all() or which == 0 or value > 0


@compiled
def test_no_gradient_where_queries_are_fewer_than_keys(name):
    with engine(name), pytest.raises(RuntimeError, match="1 queries and 5 keys"):
        attention(*tensors(1, 1, 5, 16), 16, None).sum().backward()


@pytest.mark.parametrize(("width", "d_head", "sinks"), [(40, 16, 0), (64, 16, 1), (64, 16, 5), (96, 24, 3)])
def test_heads_and_sinks_that_do_not_fit_are_refused(width, d_head, sinks):
    sink = torch.zeros(sinks) if sinks else None
    for queries, keys in ((5, 5), (1, 5)):
        q, k, v = tensors(2, queries, keys, width)
        with pytest.raises(UserError, match="do not fit together"):
            attend(q, k, v, d_head, sink)


@compiled
def test_repeated_runs_give_the_same_bits(name):
    with engine(name):
        runs = []
        for _ in range(3):
            q, k, v = tensors(3, 40, 40, 48)
            y = attention(q, k, v, 16, torch.zeros(3))
            runs.append([y, *torch.autograd.grad(y.square().sum(), (q, k, v))])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))


def selected(length: int, d_head: int, heads: int, kept: int) -> list[Tensor]:
    """q, and k and v as AbsTopK leaves them; in every third row fewer channels than it keeps are not zero."""
    q, *others = (x.detach() for x in tensors(2, length, length, heads * d_head, 2.0))
    for x in others:
        x[:, ::3, : heads * d_head - kept // 2] = 0.0
        x *= kept_by_sorting(x, kept)
    return [x.requires_grad_() for x in (q, *others)]


@compiled
@pytest.mark.parametrize("with_sink", [True, False])
@pytest.mark.parametrize(
    ("d_head", "heads", "length"), [(16, 3, 128), (16, 9, 301), (32, 5, 130), (64, 2, 257), (64, 3, 128)]
)
def test_channels_that_abs_topk_made_zero_are_skipped(name, d_head, heads, length, with_sink):
    kept = heads * d_head // 4
    inputs = selected(length, d_head, heads, kept)
    sink = torch.linspace(-3.0, 9.0, heads, requires_grad=True) if with_sink else None
    if sink is not None:
        inputs.append(sink)
    with engine(name):
        y = attention(*inputs[:3], d_head, sink, kept)
        dy = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        ours = torch.autograd.grad(y, inputs, dy)
        others = torch.autograd.grad(attention(*inputs[:3], d_head, sink), inputs, dy)
    want = by_definition(*inputs[:3], d_head, sink)
    torch.testing.assert_close(y.double(), want, rtol=1e-4, atol=1e-5)
    for i, gradient in enumerate(torch.autograd.grad(want, inputs, dy.double())):
        torch.testing.assert_close(others[i], gradient, rtol=1e-3, atol=1e-4)
        mask = kept_by_sorting(inputs[i], kept) if i in (1, 2) else 1.0
        torch.testing.assert_close(ours[i], gradient * mask, rtol=1e-3, atol=1e-4)


@compiled
@pytest.mark.parametrize("sink", [None, -500.0, 500.0])
def test_scores_of_any_size_where_zeros_are_skipped(name, sink):
    inputs = selected(160, 16, 1, 4)
    for x in inputs:
        x.data *= 20.0
    inputs[0].data[0] -= 300.0 * (sink is None)  # without a sink, scores far below zero as well
    sinks = None if sink is None else torch.tensor([sink])
    with engine(name):
        y = attention(*inputs, 16, sinks, 4)
        dq, _, dv = torch.autograd.grad(y.sum(), inputs)
    want = by_definition(*inputs, 16, sinks)
    torch.testing.assert_close(y.double(), want, rtol=1e-3, atol=1e-3)
    gradients = torch.autograd.grad(want.sum(), (inputs[0], inputs[2]))
    torch.testing.assert_close(dq, gradients[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(dv, gradients[1] * kept_by_sorting(inputs[2], 4), rtol=1e-3, atol=1e-3)


@compiled
def test_where_zeros_are_skipped_nothing_that_is_not_finite_is_lost_and_nothing_earlier_is_touched(name):
    nan, inf = float("nan"), float("inf")
    for which, value in ((0, nan), (0, inf), (1, nan), (2, nan), (2, inf)):  # a key of infinity may have no weight
        inputs = selected(150, 16, 2, 8)
        inputs[1].data[..., 5] = 0.0  # so that no key has what spoils the query
        inputs[which].data[0, 70, 5] = value
        with engine(name):
            y = attention(*inputs, 16, torch.zeros(2), 8)
            dq, dk, dv = torch.autograd.grad(y.sum(), inputs)
        spoilt = y[0, 70, :16] if which < 2 else y[0, 70, 5]
        assert not spoilt.isfinite().any() and not dq[0, 70, :16].isfinite().all(), (which, value)
        assert y[0, :70].isfinite().all() and dq[0, :70].isfinite().all() and y[1].isfinite().all()
        assert not dk.isfinite().all() and (which == 2 or not dv.isfinite().all())


@compiled
def test_skipping_gives_the_same_bits_however_many_threads(name):
    inputs = selected(200, 16, 9, 36)
    runs = []
    for threads in (1, 2, 7, 2):  # of seven each would have less than a group of heads
        with engine(name):
            torch.set_num_threads(threads)
            y = attention(*inputs, 16, None, 36)
            runs.append([y, *torch.autograd.grad(y.square().sum(), inputs)])
    for other in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], other, strict=True))
