"""AbsTopK: every engine against a stable sort in float64, bit for bit; gradients against torch.topk and scatter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwork.errors import UserError
from openwork.kernels import abs_topk, library, twins
from tests.kernels.engines import SELECTING, bits, engine, kept_by_sorting

every_engine = pytest.mark.parametrize("name", SELECTING)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, 1e-40, 3.4e38, float("inf"), float("-inf"), float("nan"), -float("nan")]


@st.composite
def matrices(draw: st.DrawFn) -> torch.Tensor:
    """Rows of normal numbers, of few values (many ties), or with special values sown in."""
    rows, d, seed = draw(st.integers(1, 6)), draw(st.integers(1, 150)), draw(st.integers(0, 2**31))
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, d)) * 10.0 ** draw(st.integers(-44, 37))
    if steps := draw(st.sampled_from([0, 1, 4])):
        x = np.round(random.normal(size=(rows, d)) * steps) / steps
    special = random.random((rows, d)) < draw(st.sampled_from([0, 0.1, 0.9]))
    return torch.from_numpy(np.where(special, random.choice(SPECIAL, (rows, d)), x)).float()


@every_engine
@given(x=matrices(), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_exactly_the_k_largest_are_kept_and_given_gradients(name, x, share):
    k = max(1, round(share * x.shape[1]))
    kept = kept_by_sorting(x, k)
    with engine(name) as kernels:
        y, zero_cut = kernels.abs_topk(x, k)
        dx = kernels.abs_topk_backward(torch.ones_like(x), y, zero_cut)
    assert torch.equal(bits(y), torch.where(kept, bits(x), 0))
    assert torch.equal(dx.bool(), kept)
    index = torch.arange(x.shape[1])
    assert torch.equal(zero_cut, torch.where(kept & (x == 0), index, -1).amax(-1).int())
    with torch.no_grad(), engine(name):
        assert torch.equal(bits(abs_topk(x, k)), bits(y))


@every_engine
@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (7, 16), (2, 17), (5, 33), (300, 256), (9, 1023), (2, 40_000)])
def test_sizes_that_do_and_do_not_fill_registers_and_parts(name, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with engine(name) as kernels:
        for k in {1, max(1, shape[1] // 4), max(1, shape[1] - 1), shape[1]}:
            assert torch.equal(kernels.abs_topk(x, k)[0], torch.where(kept_by_sorting(x, k), x, 0))


@every_engine
@pytest.mark.parametrize("value", [0.0, 2.0, float("inf"), float("nan")])
def test_of_equal_entries_the_first_are_kept(name, value):
    with engine(name) as kernels:
        y, zero_cut = kernels.abs_topk(torch.full((2, 40), value), 13)
        dx = kernels.abs_topk_backward(torch.ones(2, 40), y, zero_cut)
    assert dx[0].tolist() == [1.0] * 13 + [0.0] * 27
    assert zero_cut.tolist() == ([12, 12] if value == 0 else [-1, -1])


@every_engine
def test_all_nans_are_equal_and_larger_than_infinity(name):
    x = torch.tensor([[0x7F800000, 0x7F800001, -1, 0x7FFFFFFF]], dtype=torch.int32).view(
        torch.float32
    )  # inf, NaN, NaN, NaN
    with engine(name) as kernels:
        assert bits(kernels.abs_topk(x, 2)[0]).tolist() == [[0, 0x7F800001, -1, 0]]


@every_engine
def test_an_empty_batch_stays_empty(name):
    with engine(name) as kernels:
        y, zero_cut = kernels.abs_topk(torch.empty(0, 8), 2)
        assert y.shape == (0, 8) and zero_cut.shape == (0,)
        assert kernels.abs_topk_backward(torch.empty(0, 8), y, zero_cut).shape == (0, 8)
    assert abs_topk(torch.empty(3, 0, 8), 2).shape == (3, 0, 8)


def test_rows_whose_scales_differ_do_not_mislead_the_first_guess():
    x = torch.randn(64, 100, generator=torch.Generator().manual_seed(2)) * 10.0 ** torch.arange(-30, 34).unsqueeze(1)
    assert torch.equal(abs_topk(x, 25), torch.where(kept_by_sorting(x, 25), x, 0))


def test_the_gradient_is_that_of_topk_and_scatter():
    x = torch.randn(3, 5, 31, requires_grad=True)
    dy = torch.randn(3, 5, 31)
    chosen = x.abs().topk(8, -1).indices
    (theirs,) = torch.autograd.grad(torch.zeros_like(x).scatter(-1, chosen, x.gather(-1, chosen)), x, dy)
    for upstream in (dy, dy.transpose(0, 1).contiguous().transpose(0, 1)):
        (ours,) = torch.autograd.grad(abs_topk(x, 8), x, upstream)
        assert torch.equal(ours, theirs)
    (summed,) = torch.autograd.grad(abs_topk(x, 8).sum(), x)  # the upstream gradient is one number, expanded
    assert torch.equal(summed.bool(), theirs.bool())
    assert torch.autograd.gradcheck(
        lambda z: abs_topk(z, 3), torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    )


def test_a_second_derivative_is_refused_not_wrong():
    x = torch.randn(2, 7, requires_grad=True)
    (dx,) = torch.autograd.grad(abs_topk(x, 3).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        dx.sum().backward()


def test_layouts_types_and_shapes_beyond_contiguous_float32():
    x = torch.randn(6, 20)
    kept = kept_by_sorting(x, 5)
    assert torch.equal(abs_topk(x.T.contiguous().T, 5), torch.where(kept, x, 0))
    assert torch.equal(abs_topk(x.repeat(1, 2)[:, :20], 5), torch.where(kept, x, 0))
    assert torch.equal(abs_topk(x[2], 5), torch.where(kept[2], x[2], 0))
    assert torch.equal(abs_topk(x.double(), 5), torch.where(kept, x, 0).double())
    for low in (x.bfloat16(), x.half()):
        assert torch.equal(abs_topk(low, 5), torch.where(kept_by_sorting(low, 5), low, 0))
    assert abs_topk(x, 20) is x
    with pytest.raises(TypeError, match="int64"):
        abs_topk(torch.ones(2, 4, dtype=torch.int64), 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_a_gpu_short_floats_are_as_exact(dtype):
    x = torch.randn(9, 300).to(dtype)
    x[0, :3] = torch.tensor([torch.nan, torch.inf, -0.0])
    with engine("gpu") as kernels:
        for k in (1, 75, 299):
            y, zero_cut = kernels.abs_topk(x, k)
            assert torch.equal(bits(y), bits(twins.abs_topk(x, k)[0]))
            dx = kernels.abs_topk_backward(torch.ones_like(x), y, zero_cut)
            assert torch.equal(dx.bool(), kept_by_sorting(x, k))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("shape", [(50, 300), (2, 3, 100_000)])  # the latter is more than a program of the GPU holds
def test_on_a_gpu_the_same_is_kept_and_given_gradients(shape):
    x = torch.randn(shape, requires_grad=True)
    there = x.detach().cuda().requires_grad_()
    for z in (x, there):
        (abs_topk(z, 75) ** 2).sum().backward()
    assert torch.equal(there.grad.cpu(), x.grad)


@pytest.mark.parametrize("k", [-1, 0, 21])
def test_a_k_that_makes_no_sense_is_refused(k):
    with pytest.raises(UserError, match=f"cannot keep {k} of 20"):
        abs_topk(torch.ones(3, 20), k)


def test_torch_compile_sees_one_operator():
    def loss(x):
        return (abs_topk(x * 2, 8) ** 2).sum()

    x = torch.randn(4, 32, requires_grad=True)
    (eager,) = torch.autograd.grad(loss(x), x)
    (compiled,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(x), x)
    assert torch.equal(compiled, eager)
    torch.library.opcheck(torch.ops.openwork.abs_topk.default, (torch.randn(3, 9).T, 2))


def test_the_operator_has_the_gradient_of_the_function():
    x, dy = torch.randn(4, 32, requires_grad=True), torch.randn(4, 32)
    y, _ = torch.ops.openwork.abs_topk(x, 8)
    assert torch.equal(*(torch.autograd.grad(of, x, dy)[0] for of in (y, abs_topk(x, 8))))
    torch.library.opcheck(torch.ops.openwork.abs_topk.default, (x, 8))


@pytest.mark.skipif(library.library is None, reason="the kernels were not compiled here")
def test_other_thread_counts_and_repeated_runs_give_the_same_bits():
    x, before = torch.randn(15_000, 100), torch.get_num_threads()
    want = twins.abs_topk(x, 25)[0]
    try:
        for threads in (1, 2, 3, 3, 70):  # 70: more than there are ranges of parts to begin with
            torch.set_num_threads(threads)
            assert torch.equal(abs_topk(x, 25), want)
    finally:
        torch.set_num_threads(before)
