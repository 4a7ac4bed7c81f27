"""Products with compressed weights: every engine against dense products in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from openwork.kernels import compress, exact_linear, library, sparse_linear
from tests.kernels.engines import ENGINES, bits, engine

every_engine = pytest.mark.parametrize("name", ENGINES)
SIZES = [(1, 1, 1), (1, 40, 7), (7, 3, 33), (65, 16, 16), (130, 17, 31), (64, 256, 96), (300, 96, 257), (40, 20_000, 3)]


def sparse(d_out: int, d_in: int, density: float, seed: int = 0) -> Tensor:
    """A random weight with, where there is room, an empty row, an empty column and a full row."""
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(d_out, d_in, generator=random) * (torch.rand(d_out, d_in, generator=random) < density)
    if d_out > 2 and d_in > 2:
        w[0], w[-1] = 0, torch.randn(d_in, generator=random)
        w[:, 1] = 0
    return w


@every_engine
@pytest.mark.parametrize("density", [0, 0.02, 0.3, 1])
@pytest.mark.parametrize(("d_out", "d_in"), [(1, 1), (3, 100), (33, 31), (300, 77)])
def test_the_non_zeros_are_found_by_rows_and_by_columns(name, density, d_out, d_in):
    w = sparse(d_out, d_in, density)
    w.view(-1)[-1] = float("nan")
    w.view(-1)[0] = -0.0
    with engine(name) as kernels:
        starts, columns, values, t_starts, t_rows, order = kernels.compress(w)
    rows, cols = w.nonzero(as_tuple=True)
    assert torch.equal(columns, cols.int()) and torch.equal(bits(values), bits(w[rows, cols]))
    assert starts.tolist() == [0, *(w != 0).sum(1).cumsum(0)]
    t_cols, t_expected = w.T.nonzero(as_tuple=True)
    assert torch.equal(t_rows, t_expected.int()) and torch.equal(bits(values[order]), bits(w.T[t_cols, t_expected]))
    assert t_starts.tolist() == [0, *(w != 0).sum(0).cumsum(0)]


@every_engine
@pytest.mark.parametrize("density", [0, 0.02, 0.3, 1])
@pytest.mark.parametrize(("tokens", "d_in", "d_out"), SIZES)
def test_output_and_gradients_are_those_of_a_dense_product(name, tokens, d_in, d_out, density):
    w, random = sparse(d_out, d_in, density), torch.Generator().manual_seed(1)
    x, dy = torch.randn(tokens, d_in, generator=random), torch.randn(tokens, d_out, generator=random)
    bias = torch.randn(d_out, generator=random)
    with engine(name) as kernels:
        weight = kernels.compress(w)
        y = kernels.sparse_linear(x, *weight[:3], bias, d_out)
        without = kernels.sparse_linear(x, *weight[:3], None, d_out)
        dx, gradient, db = kernels.sparse_linear_backward(dy, x, *weight)
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(without.double(), x.double() @ w.double().T, **close)
    torch.testing.assert_close(y.double(), x.double() @ w.double().T + bias, **close)
    torch.testing.assert_close(dx.double(), dy.double() @ w.double(), **close)
    torch.testing.assert_close(gradient.double(), (dy.double().T @ x.double())[w != 0], **close)
    torch.testing.assert_close(db.double(), dy.double().sum(0), **close)


@every_engine
@pytest.mark.parametrize("density", [0, 0.02, 0.3])
@pytest.mark.parametrize(("tokens", "d_in", "d_out"), SIZES)
def test_gradients_of_zeros_that_are_watched(name, tokens, d_in, d_out, density):
    w, random = sparse(d_out, d_in, density), torch.Generator().manual_seed(1)
    x, dy = torch.randn(tokens, d_in, generator=random), torch.randn(tokens, d_out, generator=random)
    places = (w != 0) | (torch.rand(w.shape, generator=random) < 0.2)
    with engine(name) as kernels:
        starts, columns, *_ = kernels.compress(places.float())
        dx, gradient, db = kernels.sparse_linear_backward(dy, x, starts, columns, *kernels.compress(w)[2:])
    close = {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(dx.double(), dy.double() @ w.double(), **close)
    torch.testing.assert_close(gradient.double(), (dy.double().T @ x.double())[places], **close)
    torch.testing.assert_close(db.double(), dy.double().sum(0), **close)


@pytest.mark.skipif(library.library is None, reason="the kernels were not compiled here")
@pytest.mark.parametrize("threads", [1, 3, 5])
def test_gradients_are_summed_over_the_threads(threads):
    w, random, before = sparse(90, 50, 0.1), torch.Generator().manual_seed(1), torch.get_num_threads()
    x, dy = torch.randn(400, 50, generator=random), torch.randn(400, 90, generator=random)
    weight = library.compress(w)
    try:
        torch.set_num_threads(threads)
        dx, gradient, db = library.sparse_linear_backward(dy, x, *weight)
        assert torch.equal(gradient, library.sparse_linear_backward(dy, x, *weight)[1])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(dx.double(), dy.double() @ w.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(gradient.double(), (dy.double().T @ x.double())[w != 0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(db.double(), dy.double().sum(0), rtol=1e-4, atol=1e-4)


@every_engine
@pytest.mark.parametrize("density", [0, 0.02, 0.3, 1])
@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(1, 1, 1), (1, 300, 77), (3, 31, 200), (2, 2500, 60)])
def test_a_few_tokens_with_many_zeros(name, tokens, d_in, d_out, density):
    w, random = sparse(d_out, d_in, density), torch.Generator().manual_seed(1)
    x = torch.randn(tokens, d_in, generator=random) * (torch.rand(tokens, d_in, generator=random) < 0.25)
    with engine(name) as kernels:
        *_, values, t_starts, t_rows, order = kernels.compress(w)
        y = kernels.sparse_vector(x, t_starts, t_rows, values[order], torch.ones(d_out), d_out)
        first, last = x.clone(), x.clone()
        first[0, 0] = last[-1, -1] = float("nan")
        of_first = kernels.sparse_vector(first, t_starts, t_rows, values[order], None, d_out)
        of_last = kernels.sparse_vector(last, t_starts, t_rows, values[order], None, d_out)
    torch.testing.assert_close(y.double(), x.double() @ w.double().T + 1, rtol=1e-4, atol=1e-4)
    assert torch.equal(of_first[0].isnan(), w[:, 0] != 0)
    assert torch.equal(of_last[-1].isnan(), w[:, -1] != 0)


@pytest.mark.skipif(library.library is None, reason="the kernels were not compiled here")
def test_a_token_gives_the_same_bits_on_any_number_of_threads():
    w, x, before = compress(sparse(300, 700, 0.3)), torch.randn(2, 700), torch.get_num_threads()
    arguments = (x, w.t_starts, w.t_rows, w.values[w.order], None, 300)
    try:
        torch.set_num_threads(1)
        alone = library.sparse_vector(*arguments)
        for threads in (2, 2, 5):
            torch.set_num_threads(threads)
            assert torch.equal(library.sparse_vector(*arguments), alone)
    finally:
        torch.set_num_threads(before)


@every_engine
def test_nan_and_infinity_reach_what_has_a_weight_for_them_and_nothing_else(name):
    w = torch.tensor([[0.0, 2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, float("nan")]])
    x = torch.tensor([[1.0, float("nan"), 1.0], [float("inf"), 1.0, 1.0]])
    with engine(name) as kernels:
        weight = kernels.compress(w)
        y = kernels.sparse_linear(x, *weight[:3], None, 3)
        dx, gradient, db = kernels.sparse_linear_backward(x, torch.ones(2, 3), *weight)
    assert y[0, 0].isnan() and y[0, 1] == 3 and y[1, 0] == 2 and y[1, 1] == float("inf") and y[:, 2].isnan().all()
    assert dx[0, 0].isnan() and dx[0, 1] == 2 and dx[1, 0] == 3 and dx[1, 1] == float("inf")
    assert gradient[0] == db[0] == float("inf") and gradient[1].isnan() and db[1].isnan() and gradient[2] == db[2] == 2


@every_engine
def test_no_tokens_and_no_weights(name):
    with engine(name) as kernels:
        weight = kernels.compress(torch.zeros(5, 4))
        assert kernels.sparse_linear(torch.empty(0, 4), *weight[:3], None, 5).shape == (0, 5)
        y = kernels.sparse_linear(torch.ones(3, 4), *weight[:3], torch.arange(5.0), 5)
        dx, gradient, db = kernels.sparse_linear_backward(torch.ones(3, 5), torch.ones(3, 4), *weight)
    assert torch.equal(y, torch.arange(5.0).expand(3, 5)) and not dx.any() and gradient.shape == (0,)
    assert torch.equal(db, torch.full((5,), 3.0))


def test_autograd_of_all_forms():
    w, random = sparse(6, 9, 0.4).double(), torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 9, generator=random, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, generator=random, dtype=torch.float64, requires_grad=True)
    weight, dense = compress(w), w.clone().requires_grad_()
    values = weight.values.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, v, b: sparse_linear(x, replace(weight, values=v), b), (x, values, bias))
    theirs = torch.autograd.grad(torch.nn.functional.linear(x, dense, bias).square().sum(), (x, dense, bias))
    ours = torch.autograd.grad(exact_linear(x, dense, weight, bias).square().sum(), (x, dense, bias))
    everywhere = compress(torch.ones_like(w))
    zeros = everywhere.values.zero_().requires_grad_()  # not what is multiplied by
    y = sparse_linear(x, replace(weight, values=values.detach()), bias, everywhere)
    watched = torch.autograd.grad(y.square().sum(), (x, zeros, bias))
    for a, b, c in zip(ours, theirs, watched, strict=True):
        torch.testing.assert_close(a, b)
        torch.testing.assert_close(c.view_as(b), b)


def test_gradients_flow_where_weights_are_frozen_and_in_other_layouts():
    w = sparse(20, 30, 0.2)
    weight, x = compress(w), torch.randn(4, 30, 5).transpose(1, 2).requires_grad_()
    for y in (sparse_linear(x, weight), exact_linear(x, w, weight)):
        torch.testing.assert_close(y, x @ w.T)
        (dx,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(dx, w.sum(0).expand_as(x))


def test_places_and_density():
    w = sparse(7, 5, 0.3)
    weight = compress(w)
    assert torch.equal(weight.flat, w.flatten().nonzero().squeeze(1))
    assert weight.density == int((w != 0).sum()) / 35


def test_torch_compile_sees_operators():
    w = sparse(8, 16, 0.3)
    weight = compress(w)
    weight.values.requires_grad_()

    def loss(x):
        return (sparse_linear(x * 2, weight) ** 2).sum() + exact_linear(x, w, weight).sum()

    x = torch.randn(4, 16, requires_grad=True)
    eager = torch.autograd.grad(loss(x), (x, weight.values))
    compiled = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(x), (x, weight.values))
    for a, b in zip(eager, compiled, strict=True):
        torch.testing.assert_close(a, b)
    parts = (weight.starts, weight.columns, weight.values.detach())
    torch.library.opcheck(torch.ops.openwork.sparse_linear.default, (torch.randn(3, 16), *parts, None, 8))


@pytest.mark.skipif(library.library is None, reason="the kernels were not compiled here")
def test_repeated_runs_give_the_same_bits():
    x, dy, w, before = (
        torch.randn(500, 64),
        torch.randn(500, 96),
        compress(sparse(96, 64, 0.1)),
        torch.get_num_threads(),
    )
    parts = (w.starts, w.columns, w.values, w.t_starts, w.t_rows, w.order)
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            first = library.sparse_linear_backward(dy, x, *parts)
            for _ in range(3):
                again = library.sparse_linear_backward(dy, x, *parts)
                assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    finally:
        torch.set_num_threads(before)
