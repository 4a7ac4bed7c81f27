"""Products with compressed weights: every engine against dense products in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels import (
    Product,
    abs_topk,
    compress,
    compress_below,
    exact_linear,
    gelu_abs_topk,
    library,
    sparse_linear,
    sparse_linears,
    sparse_vector,
)
from tests.kernels.engines import ENGINES, LEVELS, bits, engine

every_level = pytest.mark.parametrize("name", LEVELS)
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
def test_a_weight_is_compressed_only_below_the_density_that_is_asked_for(name):
    w = torch.zeros(5, 8)
    w.view(-1)[:10] = 1  # a quarter
    with engine(name) as kernels:
        assert kernels.compress(w, 0.25) is None
        assert len(kernels.compress(w, 0.26)[2]) == 10
    assert compress_below(w, 0.25) is None and compress_below(w.double(), 0.25) is None
    for kept in (compress_below(w, 0.26), compress_below(w.double(), 0.26), compress(w)):
        assert kept is not None and kept.flat.tolist() == list(range(10))


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
    assert len(weight.values) == int((w != 0).sum())


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


@pytest.mark.parametrize("with_bias", [False, True])
def test_the_operator_has_the_gradients_of_the_function(with_bias):
    weight, x, dy = compress(sparse(8, 16, 0.3)), torch.randn(3, 16, requires_grad=True), torch.randn(3, 8)
    bias, values = torch.randn(8, requires_grad=True) if with_bias else None, weight.values.requires_grad_()
    inputs = [x, values] if bias is None else [x, values, bias]
    arguments = (x, weight.starts, weight.columns, values, bias, 8)
    y = torch.ops.openwork.sparse_linear(*arguments)
    found, want = (torch.autograd.grad(of, inputs, dy) for of in (y, sparse_linear(x, weight, bias)))
    torch.testing.assert_close(found, want)
    torch.library.opcheck(torch.ops.openwork.sparse_linear.default, arguments)


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


FORMS = ("kept", "watched", "exact", "frozen", "only the bias")


def product(w: Tensor, form: str, **selection: int) -> tuple[Product, list[Tensor]]:
    """A product with the weight w, and what of it gets a gradient."""
    weight, bias, watched, dense = compress(w), torch.linspace(-1, 1, len(w)), None, None
    bias[bias.abs() < 0.9] = 0
    if form == "kept":
        learnt = [weight.values.requires_grad_(), bias.requires_grad_()]
    elif form == "watched":
        watched = compress(torch.where(torch.rand(w.shape, generator=torch.Generator().manual_seed(3)) < 0.2, 1, w))
        learnt = [watched.values.requires_grad_(), bias.requires_grad_()]
    elif form == "exact":
        dense = w.clone()
        learnt = [dense.requires_grad_(), bias.requires_grad_()]
    else:
        learnt = [bias.requires_grad_()] if form == "only the bias" else []
    return Product(weight, bias, watched, dense, **selection), learnt


def assert_same_bits(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(bits(a), bits(b))


@every_level
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(
    ("tokens", "d_in", "d_out", "k"), [(1, 9, 7, 3), (70, 33, 90, 40), (300, 40, 257, 1), (6, 9, 7, 7)]
)
def test_a_product_and_its_abs_topk_have_the_bits_of_one_after_the_other(name, form, gelu, tokens, d_in, d_out, k):
    """Ties, kept zeros (where x is zero there are fewer others than k), NaN and infinity among them."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(tokens, d_in, generator=random)
    x[0, 0], x[-1, 2] = float("nan"), float("inf")
    x[tokens // 2] = 0
    x.requires_grad_()
    dy = torch.randn(tokens, d_out, generator=random)
    one, learnt = product(sparse(d_out, d_in, 0.1), form, k=k, gelu=gelu)
    with engine(name):
        (y,) = sparse_linears(x, [one])
        ours = torch.autograd.grad(y, [x, *learnt], dy)
        two = gelu_abs_topk if gelu else abs_topk
        after = two(sparse_linears(x, [replace(one, k=0, gelu=False)])[0], k)
        theirs = torch.autograd.grad(after, [x, *learnt], dy)
        with torch.no_grad():
            assert torch.equal(bits(sparse_linears(x, [one])[0]), bits(y))
    assert_same_bits([y, *ours], [after, *theirs])


@every_level
@pytest.mark.parametrize(
    "forms",
    [("kept",) * 3, ("watched",) * 3, ("exact",) * 3, ("frozen", "exact", "watched"), ("watched", "exact", "frozen")],
)
def test_products_of_the_same_x_have_the_bits_that_they_have_alone(name, forms):
    random = torch.Generator().manual_seed(1)
    x = torch.randn(2, 65, 40, generator=random).requires_grad_()
    widths, ks = (30, 50, 17), (7, 0, 5)
    made = [product(sparse(n, 40, 0.1, seed=n), form, k=k) for n, form, k in zip(widths, forms, ks, strict=True)]
    products, learnt = [one for one, _ in made], [tensor for _, tensors in made for tensor in tensors]
    dys = [torch.randn(2, 65, n, generator=random) for n in widths]
    with engine(name):
        together = sparse_linears(x, products)
        ours = torch.autograd.grad(together, [x, *learnt], dys)
        alone = [sparse_linears(x, [one])[0] for one in products]
        theirs = torch.autograd.grad(alone, [x, *learnt], dys)
        (only_first,) = torch.autograd.grad(sparse_linears(x, products)[0], x, dys[0])
        (of_first,) = torch.autograd.grad(sparse_linears(x, products[:1])[0], x, dys[0])
    assert_same_bits([*together, *ours], [*alone, *theirs])
    torch.testing.assert_close(only_first, of_first)


@every_level
@pytest.mark.parametrize("tokens", [1, 3])
def test_products_of_a_few_tokens_have_the_bits_of_one_after_the_other(name, tokens):
    """Small and large weights (whose inputs are divided), zeros, NaN and infinity, with AbsTopK, of the GELU too."""
    random = torch.Generator().manual_seed(1)
    x = torch.randn(1, tokens, 1100, generator=random) * (torch.rand(1, tokens, 1100, generator=random) < 0.25)
    x[0, 0, 0], x[0, -1, -1] = float("nan"), float("inf")
    wanted = [(30, 0, False), (70, 20, False), (90, 90 // 4, True), (1, 0, False)]
    products = []
    for d_out, k, gelu in wanted:
        weight, bias = compress(sparse(d_out, 1100, 0.2, seed=d_out)), torch.randn(d_out, generator=random)
        products.append(Product(weight, bias if d_out > 30 else None, k=k, gelu=gelu, by_input=weight.by_input()))
    assert {len(p.weight.values) > 8192 for p in products} == {False, True}
    with engine(name), torch.no_grad():
        together = sparse_linears(x, products)
        for y, p in zip(together, products, strict=True):
            assert torch.equal(bits(sparse_linears(x, [p])[0]), bits(y))
            alone = sparse_vector(x, p.weight, p.weight.values[p.weight.order], p.bias)
            selected = alone if p.k == 0 else gelu_abs_topk(alone, p.k) if p.gelu else abs_topk(alone, p.k)
            assert torch.equal(bits(selected), bits(y))


@every_level
@pytest.mark.parametrize("n_weights", [8191, 8192, 8193])
def test_a_few_tokens_around_the_size_from_which_inputs_are_divided(name, n_weights):
    w, x = torch.zeros(90, 100), torch.randn(2, 100, generator=torch.Generator().manual_seed(1))
    w.view(-1)[:n_weights] = 1
    weight = compress(w)
    with engine(name), torch.no_grad():
        y = sparse_linears(x, [Product(weight, by_input=weight.by_input())])[0]
    torch.testing.assert_close(y, x @ w.T, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("d_out", [2**16, 2**16 + 1])
def test_a_few_tokens_with_as_many_outputs_as_are_packed_and_with_more(d_out):
    w = torch.zeros(d_out, 3)
    w[-1, 1], w[0, 2], w[2**15, 2] = 2, 3, 5
    weight = compress(w)
    assert (weight.by_input() is None) == (d_out > 2**16)
    x = torch.tensor([[7.0, 11.0, 13.0]])
    with torch.no_grad():
        assert torch.equal(sparse_linears(x, [Product(weight, by_input=weight.by_input())])[0], x @ w.T)
        assert torch.equal(sparse_vector(x, weight, weight.values[weight.order]), x @ w.T)


@pytest.mark.parametrize("k", [-1, 7])
def test_a_product_cannot_keep_more_than_it_has(k):
    with pytest.raises(UserError, match=f"cannot keep {k} of 6"):
        sparse_linears(torch.ones(2, 9), [Product(compress(sparse(6, 9, 0.4)), k=k)])


@pytest.mark.parametrize(("d_in", "n_bias", "lost"), [(8, 6, 0), (10, 6, 0), (9, 5, 0), (9, 1, 0), (9, 6, 1)])
def test_a_product_of_what_does_not_fit_together_is_refused(d_in, n_bias, lost):
    weight = compress(sparse(6, 9, 0.4))
    x, t_values, bias = torch.ones(2, d_in), weight.values[weight.order][lost:], torch.ones(n_bias)
    with pytest.raises(UserError, match="do not fit"):
        sparse_vector(x, weight, t_values, bias)
    if not lost:
        with pytest.raises(UserError, match="do not fit"):
            sparse_linear(x, weight, bias)


def test_a_weight_that_changes_between_forward_and_backward_is_noticed():
    one, _ = product(sparse(6, 9, 0.4), "exact", k=2)
    y = sparse_linears(torch.randn(3, 9, requires_grad=True), [one])[0]
    one.weight.values.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_selections_of_all_forms_without_the_compiled_kernels():
    w, random = sparse(6, 9, 0.4).double(), torch.Generator().manual_seed(2)
    x = torch.randn(3, 9, generator=random, dtype=torch.float64)
    full = torch.nn.functional.linear(x, w)
    for form in ("kept", "watched", "exact"):
        one = replace(product(w, form)[0], bias=None)
        for gelu, want in ((False, full), (True, torch.nn.functional.gelu(full))):
            (y,) = sparse_linears(x, [replace(one, k=2, gelu=gelu)])
            torch.testing.assert_close(y, abs_topk(want, 2))
