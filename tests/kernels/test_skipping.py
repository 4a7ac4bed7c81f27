"""Products that skip the zeros of activations: against float64, and as a linear layer against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from openwork import kernels
from openwork.kernels import abs_topk, compress, exact_linear, library, linear, skipping
from tests.kernels.engines import LEVELS, bits, engine

needs_kernels = pytest.mark.skipif(not kernels.native, reason="the kernels were not compiled here")
every_level = pytest.mark.parametrize("name", LEVELS)
SIZES = [(1, 1, 1), (7, 3, 33), (33, 64, 16), (65, 130, 17), (40, 20, 300), (600, 70, 40), (3, 5_000, 129), (5, 0, 4)]


def mostly_zero(*shape: int, seed: int = 0) -> Tensor:
    """A quarter of each row is not zero; where there is room the first row is empty and the last full."""
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=random)
    x = abs_topk(x, shape[-1] // 4) if shape[-1] >= 4 else x
    if shape[0] > 2:
        x[0], x[-1] = 0, torch.randn(shape[1:], generator=random)
    return x


@every_level
@pytest.mark.parametrize("b_turned", [False, True])
@pytest.mark.parametrize("a_turned", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), SIZES)
def test_the_product_is_the_dense_one(name, m, k, n, a_turned, b_turned):
    random = torch.Generator().manual_seed(1)
    a, bias = mostly_zero(m, k), torch.randn(n, generator=random)
    a = a.T.contiguous().T if a_turned else a
    b = torch.randn(n, k, generator=random).T if b_turned else torch.randn(k, n, generator=random)
    with engine(name):
        with_bias, without = library.skipping_product(a, b, bias), library.skipping_product(a, b)
        torch.set_num_threads(1)
        alone = library.skipping_product(a, b, bias)
    torch.testing.assert_close(without.double(), a.double() @ b.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(with_bias.double(), a.double() @ b.double() + bias, rtol=1e-4, atol=1e-4)
    assert torch.equal(bits(alone), bits(with_bias))  # however many threads


@every_level
def test_a_zero_meets_neither_nan_nor_infinity_and_all_else_does(name):
    a, b = torch.zeros(20, 70), torch.ones(70, 50)
    a[0, 3], a[1, 4], a[2, 69], a[3, 5], a[4, 0] = float("nan"), 1.0, -2.0, float("inf"), -0.0
    b[4, 7], b[69, 49], b[0] = float("nan"), float("inf"), float("nan")
    with engine(name):
        c = library.skipping_product(a, b)
    assert c[0].isnan().all() and c[3].isposinf().all() and (c[4:] == 0).all()
    assert c[1].isnan().nonzero().flatten().tolist() == [7] and (c[2] == -2).sum() == 49 and c[2, 49].isneginf()


def layer(tokens: int = 300, d_in: int = 160, d_out: int = 224) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, weight, bias and dy, of a size that is worth skipping."""
    random = torch.Generator().manual_seed(0)
    x, dy = mostly_zero(2, tokens // 2, d_in, seed=1), mostly_zero(2, tokens // 2, d_out, seed=2)
    return x, torch.randn(d_out, d_in, generator=random), torch.randn(d_out, generator=random), dy


@pytest.fixture
def skipped(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Gets the shape of what each product skips the zeros of."""
    shapes, product = [], library.skipping_product

    def noted(a: Tensor, *others: Tensor | None) -> Tensor:
        shapes.append(a.shape)
        return product(a, *others)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(library, "skipping_product", noted)
    return shapes


@needs_kernels
@pytest.mark.parametrize("with_bias", [False, True])
def test_output_and_gradients_of_a_layer_are_those_of_a_dense_one(with_bias, skipped):
    x, weight, bias, dy = layer()
    inputs = [part.requires_grad_() for part in ((x, weight, bias) if with_bias else (x, weight))]
    y = linear(*inputs)
    wide = [part.detach().double().requires_grad_() for part in inputs]
    y_wide = F.linear(*wide)
    torch.testing.assert_close(y.double(), y_wide, rtol=1e-5, atol=1e-4)
    wanted = torch.autograd.grad(y_wide, wide, dy.double())
    for found, gradient in zip(torch.autograd.grad(y, inputs, dy), wanted, strict=True):
        torch.testing.assert_close(found.double(), gradient, rtol=1e-5, atol=1e-4)
    assert skipped == [(300, 160), (300, 224), (224, 300)]  # y, dX, dW


@needs_kernels
def test_only_what_is_asked_for_is_made(skipped):
    x, weight, bias, dy = layer()
    linear(x, weight.requires_grad_(), bias).backward(dy)
    assert skipped == [(300, 160), (224, 300)] and weight.grad is not None
    with torch.no_grad():
        linear(x, weight, bias)
    assert len(skipped) == 3


@needs_kernels
def test_where_there_is_little_to_skip_it_is_the_layer_of_pytorch(skipped):
    x, weight, bias, dy = layer()
    full = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    few = x[:, :2].contiguous()
    for given in (full, few):
        assert torch.equal(linear(given, weight, bias), F.linear(given, weight, bias))
    of_both = [f(full, weight.requires_grad_(), bias).grad_fn for f in (linear, F.linear)]
    assert not skipped and of_both[0].name() == of_both[1].name() == "ViewBackward0"
    linear(full, weight, bias, selected=True).backward(dy)  # AbsTopK follows: the gradient is mostly zero
    assert skipped == [(224, 300)]
    skipped.clear()
    linear(full, weight, bias, selected=True).backward(full.new_ones(dy.shape))
    assert not skipped
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, bias).dtype == torch.bfloat16
    assert linear(x.double(), weight.double(), bias.double()).dtype == torch.float64
    assert not skipped


@needs_kernels
def test_the_dense_gradient_of_a_sparse_weight_skips_too(skipped):
    x, weight, bias, dy = layer()
    weight *= torch.rand(weight.shape, generator=torch.Generator().manual_seed(3)) < 0.1
    exact_linear(x, weight.requires_grad_(), compress(weight), bias).backward(dy)
    assert skipped == [(224, 300)]
    torch.testing.assert_close(weight.grad, dy.flatten(0, 1).T @ x.flatten(0, 1), rtol=1e-4, atol=1e-4)


@needs_kernels
def test_gradients_have_gradients():
    x, weight, bias, dy = layer()
    found, wanted = [], []
    for of, results in ((linear, found), (F.linear, wanted)):
        inputs = [part.clone().requires_grad_() for part in (x, weight, bias)]
        (dx,) = torch.autograd.grad((of(*inputs).square() * (dy != 0)).sum(), inputs[0], create_graph=True)
        results += torch.autograd.grad(dx.square().sum(), inputs[1])
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1.0)
    assert float(wanted[0].abs().mean()) > 1e3  # so 1.0 is little


@needs_kernels
def test_a_bias_of_another_shape_is_what_it_is_to_pytorch():
    x, weight, bias, _ = layer()
    with torch.no_grad():
        torch.testing.assert_close(linear(x, weight, bias[:1]), F.linear(x, weight, bias[:1]), rtol=1e-5, atol=1e-4)
        with pytest.raises(RuntimeError):
            linear(x, weight, bias[:-1])


@needs_kernels
def test_compile_sees_an_ordinary_operator():
    x, weight, bias, _ = layer()
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight, bias), F.linear(x, weight, bias))


def test_the_sample_decides():
    x = torch.zeros(64, 2**18 // 64)
    x[::2] = 1
    assert skipping.SAMPLED % 2 == 0 and not skipping._skips(x, 64)
    x[::2], x[1::2] = 0, 1
    assert skipping._skips(x, 64) and not skipping._skips(x, 16)
