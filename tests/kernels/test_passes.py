"""RMSNorm, GELU, cross-entropy and Adam against PyTorch's operators in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from openwork.errors import UserError
from openwork.kernels import (
    abs_topk,
    adam_step_,
    cross_entropy,
    gelu,
    gelu_abs_topk,
    rms_norm,
    rms_norm_abs_topk,
    twins,
)
from tests.kernels.engines import ENGINES, LEVELS, bits, engine

compiled = pytest.mark.parametrize("name", LEVELS)
SHAPES = [(1, 1), (5, 3), (2, 3, 16), (40, 33), (70, 300), (3, 20_000)]


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@compiled
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(name, shape):
    x, weight = (random(*shape) * 3).requires_grad_(), random(shape[-1], seed=1).requires_grad_()
    dy = random(*shape, seed=2)
    with engine(name):
        y = rms_norm(x, weight)
        ours = torch.autograd.grad(y, (x, weight), dy)
    want = F.rms_norm(x.double(), weight.shape, weight.double(), torch.finfo(torch.float32).eps)
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-6)
    for a, b in zip(ours, torch.autograd.grad(want, (x, weight), dy.double()), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@compiled
@pytest.mark.parametrize(("shape", "k"), [((1, 2), 1), ((5, 3), 2), ((2, 3, 16), 4), ((70, 300), 75), ((4, 9), 9)])
def test_rms_norm_and_its_abs_topk_have_the_bits_of_one_after_the_other(name, shape, k):
    x, weight, dy = random(*shape) * 3, random(shape[-1], seed=1).requires_grad_(), random(*shape, seed=2)
    x.view(-1, shape[-1])[-1, 1] = float("nan")
    x.view(-1, shape[-1])[0, 1:] = 0  # fewer others than k, so that zeros are kept
    x.requires_grad_()
    with engine(name):
        y, after = rms_norm_abs_topk(x, weight, k), abs_topk(rms_norm(x, weight), k)
        ours, theirs = (torch.autograd.grad(out, (x, weight), dy) for out in (y, after))
        with torch.no_grad():
            assert torch.equal(bits(rms_norm_abs_topk(x, weight, k)), bits(y))
    for a, b in zip((y, *ours), (after, *theirs), strict=True):
        assert torch.equal(bits(a), bits(b))


def test_rms_norm_is_the_same_function_in_every_type():
    x, weight = 1e-4 * torch.randn(4, 20), torch.rand(20)
    torch.testing.assert_close(rms_norm(x.double(), weight.double()).float(), rms_norm(x, weight))


@compiled
def test_rms_norm_of_zeros_and_of_what_is_not_finite(name):
    x = torch.tensor([[0.0] * 20, [float("nan")] + [1.0] * 19, [float("inf")] + [1.0] * 19])
    with engine(name):
        y = rms_norm(x, torch.ones(20))
    assert not y[0].any() and y[1].isnan().all() and y[2, 0].isnan() and not y[2, 1:].any()


@compiled
@pytest.mark.parametrize("n", [1, 15, 16, 17, 9000])
def test_gelu(name, n):
    x = (random(n) * 4).requires_grad_()
    with engine(name):
        y = gelu(x)
        (dx,) = torch.autograd.grad(y, x, random(n, seed=1))
    want = F.gelu(x.double())
    torch.testing.assert_close(y.double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dx, torch.autograd.grad(want, x, random(n, seed=1).double())[0], rtol=1e-4, atol=1e-6)


@compiled
def test_gelu_at_the_ends_of_the_line(name):
    x = torch.tensor([0.0, 1e-30, -1e-30, 30.0, -30.0, 1e20, -1e20, float("inf"), float("-inf"), float("nan")])
    with engine(name):
        y = gelu(x)
    assert torch.equal(y[:8], torch.tensor([0, 5e-31, -5e-31, 30, 0, 1e20, 0, float("inf")]))
    assert y[8:].isnan().all()  # -inf times 0


@compiled
@pytest.mark.parametrize("shape", [(1, 2), (5, 3), (2, 3, 16), (40, 33), (70, 300), (3, 20_000)])
def test_gelu_and_abs_topk_together_are_one_after_the_other(name, shape):
    x, dy, k = (random(*shape) * 3).requires_grad_(), random(*shape, seed=1), max(1, shape[-1] // 4)
    with engine(name):
        y, separate = gelu_abs_topk(x, k), abs_topk(gelu(x), k)
        (dx,), (want,) = (torch.autograd.grad(out, x, dy) for out in (y, separate))
    assert torch.equal(y, separate) and torch.equal(dx, want)


@compiled
def test_gelu_and_abs_topk_keep_zeros_and_nan_as_abs_topk_does(name):
    x = torch.zeros(2, 20, requires_grad=True)
    with torch.no_grad():
        x[1, 7] = float("nan")
    with engine(name):
        y = gelu_abs_topk(x, 3)
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(x))
    assert y[1, 7].isnan() and y.nan_to_num().count_nonzero() == 0
    assert dx[0].tolist() == [0.5] * 3 + [0.0] * 17 and dx[1, :3].tolist() == [0.5, 0.5, 0.0] and dx[1, 7].isnan()


@compiled
def test_gelu_and_abs_topk_without_gradients_are_the_same_and_what_was_dropped_passes_nothing_on(name):
    x, dy = random(9, 70).requires_grad_(), torch.full((9, 70), float("nan"))
    with engine(name):
        y = gelu_abs_topk(x, 20)
        with torch.no_grad():
            assert torch.equal(gelu_abs_topk(x, 20), y)
        (dx,) = torch.autograd.grad(y, x, dy)
        (again,) = torch.autograd.grad(gelu_abs_topk(x, 20), x, torch.ones_like(x))
    assert torch.equal(dx.isnan(), y != 0) and not dx[y == 0].any()
    assert torch.equal(again != 0, y != 0)


@compiled
@pytest.mark.parametrize(("rows", "d"), [(1, 1), (3, 15), (5, 16), (40, 2048), (2, 20_001)])
def test_cross_entropy(name, rows, d):
    logits = (random(rows, d) * 5).requires_grad_()
    targets = torch.randint(0, d, (rows,), generator=torch.Generator().manual_seed(1))
    with engine(name):
        loss = cross_entropy(logits, targets)
        (dlogits,) = torch.autograd.grad(loss * 3, logits)
    want = F.cross_entropy(logits.double(), targets)
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dlogits, torch.autograd.grad(want * 3, logits)[0], rtol=1e-4, atol=1e-6)


@compiled
@pytest.mark.parametrize("at", [-1000.0, 1000.0])
@pytest.mark.parametrize("largest", [0, 20])
def test_cross_entropy_of_logits_far_from_zero(name, at, largest):
    logits, targets = random(3, 21) * 5 + at, torch.tensor([1, 20, 0])
    logits[1, largest] += 300
    with engine(name):
        (dlogits,) = torch.autograd.grad(loss := cross_entropy(logits.requires_grad_(), targets), logits)
    want = F.cross_entropy(logits.double(), targets)
    torch.testing.assert_close(loss.double(), want, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(dlogits, torch.autograd.grad(want, logits)[0], rtol=1e-3, atol=1e-5)


@compiled
def test_cross_entropy_of_what_is_not_finite_and_of_targets_that_are_none(name):
    logits = random(4, 40)
    logits[2, 7] = float("nan")
    with engine(name):
        assert cross_entropy(logits, torch.zeros(4, dtype=torch.int64)).isnan()
        with pytest.raises(UserError, match=r"between 0 and 40; they must lie in \[0, 40\)"):
            cross_entropy(logits, torch.tensor([0, 1, 2, 40]))


@pytest.mark.parametrize("name", ENGINES)
def test_adam_is_that_of_pytorch(name):
    ours, theirs = random(3, 6000), torch.nn.Parameter(random(3, 6000).double())
    m, v = torch.zeros(2, 3, 6000)
    reference = torch.optim.AdamW([theirs], lr=0.1, betas=(0.9, 0.95), eps=0.1, weight_decay=0.2)
    with engine(name):
        for n in range(1, 4):
            gradient = random(3, 6000, seed=n)
            theirs.grad = gradient.double() * 0.5
            reference.step()
            options = {"n": n, "rate": 0.1, "betas": (0.9, 0.95), "eps": 0.1, "decay": 0.2, "scale": 0.5}
            if name == "torch":
                double = [x.double() for x in (ours, gradient, m, v)]  # the compiled kernels do not take these
                adam_step_(*double, **options)
                ours, m, v = (double[i].float() for i in (0, 2, 3))
            else:
                adam_step_(ours, gradient, m, v, **options)
    torch.testing.assert_close(ours.double(), theirs.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", range(1, 4))
def test_adam_refuses_tensors_of_several_shapes(which):
    tensors = [random(3, 60, seed=n).abs() for n in range(4)]
    for other in (tensors[which][:1, :1], tensors[which].T, tensors[which].flatten()):
        given = [*tensors[:which], other, *tensors[which + 1 :]]
        with pytest.raises(UserError, match=r"have the shapes \(3, 60\), "):
            adam_step_(*given, n=1, rate=0.1, betas=(0.9, 0.95), eps=0.1)


def test_on_a_gpu_adam_of_many_tensors_at_once_is_that_of_each():
    each = [[random(*shape, seed=n) for n in range(4)] for shape in [(3, 6000), (1,), (8192,), (5, 7)]]
    for tensors in each:
        tensors[3].abs_()  # the mean of squares
    wanted = [[x.clone() for x in tensors] for tensors in each]
    numbers = (0.5, 0.9, 0.95, 0.1, 0.03, 0.7, 0.98)
    with engine("gpu") as kernels:
        kernels.adam_step_each_(each, *numbers)
    for tensors, theirs in zip(each, wanted, strict=True):
        twins.adam_step_(*theirs, *numbers)
        for x, y in zip(tensors, theirs, strict=True):
            torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_together_is_refused_as_pytorch_does():
    logits = torch.randn(4000, 8)
    integers = torch.zeros(4000, dtype=torch.int64)
    for targets in (integers.int(), integers[:2], integers[:, None], integers.to("meta")):
        with pytest.raises((RuntimeError, ValueError)):
            cross_entropy(logits, targets)
    with pytest.raises(RuntimeError):
        rms_norm(torch.randn(3, 16), torch.ones(8))
    with pytest.raises(RuntimeError):
        rms_norm_abs_topk(torch.randn(3, 16), torch.ones(8), 4)
