"""Selection against a plain sort in float64, and the compiled kernels against their twins, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openwork import kernels
from openwork.errors import UserError
from openwork.kernels import abs_topk, keep_topk_, native, twins

both = pytest.mark.parametrize("engine", [pytest.param(native, id="compiled"), pytest.param(twins, id="torch")])
needs_compiler = pytest.mark.skipif(not kernels.compiled, reason="the kernels were not compiled here")


@pytest.fixture(autouse=True)
def _skip_uncompiled(request):
    if request.node.callspec.params.get("engine") is native if hasattr(request.node, "callspec") else False:
        if not kernels.compiled:
            pytest.skip("the kernels were not compiled here")


def kept_by_sorting(x: Tensor, k: int) -> Tensor:
    """Mask of the k largest |x| of each row, NaN first, ties to the lower index: by a stable sort."""
    keys = x.double().abs().nan_to_num(nan=float("inf"), posinf=1e300)
    order = (-keys).argsort(dim=-1, stable=True)[..., :k]
    return torch.zeros_like(x, dtype=torch.bool).scatter(-1, order, True)


def matrices():
    sizes = st.tuples(st.integers(1, 5), st.integers(1, 70))
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-40, -3e38, float("inf"), float("-inf"), float("nan"), 0.5, 0.25])
    normal = st.integers(0, 10**6).map(lambda seed: float(np.random.default_rng(seed).normal()))
    return sizes.flatmap(
        lambda s: st.lists(st.one_of(values, normal), min_size=s[0] * s[1], max_size=s[0] * s[1]).map(
            lambda flat: torch.tensor(flat).view(s)
        )
    )


@both
@given(x=matrices(), share=st.floats(0.01, 1))
@settings(max_examples=150, deadline=None)
def test_exactly_the_k_largest_of_each_row_are_kept(engine, x, share):
    k = max(1, int(share * x.shape[1]))
    y, zero_cut = engine.abs_topk(x, k)
    mask = kept_by_sorting(x, k)
    assert torch.equal(y.nan_to_num(7), torch.where(mask, x, 0).nan_to_num(7))
    dx = engine.abs_topk_backward(torch.ones_like(x), y, zero_cut)
    assert torch.equal(dx.bool(), mask)


@both
@pytest.mark.parametrize("shape", [(1, 1), (3, 15), (7, 16), (2, 17), (5, 33), (64, 256), (9, 1024)])
def test_sizes_that_do_and_do_not_fill_registers(engine, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for k in {1, max(1, shape[1] // 4), shape[1]}:
        assert torch.equal(engine.abs_topk(x, k)[0], torch.where(kept_by_sorting(x, k), x, 0))


@both
@pytest.mark.parametrize("value", [0.0, 2.0, float("inf"), float("nan")])
def test_equal_entries_are_kept_by_index(engine, value):
    x = torch.full((2, 40), value)
    y, zero_cut = engine.abs_topk(x, 13)
    dx = engine.abs_topk_backward(torch.ones_like(x), y, zero_cut)
    assert dx[0].tolist() == [1.0] * 13 + [0.0] * 27
    assert zero_cut.tolist() == ([12, 12] if value == 0 else [-1, -1])


@both
def test_an_empty_batch_stays_empty(engine):
    y, zero_cut = engine.abs_topk(torch.empty(0, 8), 2)
    assert y.shape == (0, 8) and zero_cut.shape == (0,)


def test_the_gradient_is_that_of_topk_and_scatter():
    x = torch.randn(3, 5, 31, requires_grad=True)
    dy = torch.randn(3, 5, 31)
    (ours,) = torch.autograd.grad(abs_topk(x, 8), x, dy)
    chosen = x.abs().topk(8, -1).indices
    (theirs,) = torch.autograd.grad(torch.zeros_like(x).scatter(-1, chosen, x.gather(-1, chosen)), x, dy)
    assert torch.equal(ours, theirs)
    assert torch.autograd.gradcheck(
        lambda z: abs_topk(z, 3), torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    )


def test_layouts_and_types_beyond_contiguous_float32():
    x = torch.randn(6, 20)
    mask = kept_by_sorting(x, 5)
    assert torch.equal(abs_topk(x.T.contiguous().T, 5), torch.where(mask, x, 0))
    assert torch.equal(abs_topk(x.double(), 5), torch.where(mask, x, 0).double())
    low = x.bfloat16()
    assert torch.equal(abs_topk(low, 5), torch.where(kept_by_sorting(low, 5), low, 0))
    assert abs_topk(x, 20) is x
    for k in (0, 21):
        with pytest.raises(UserError, match=f"cannot keep {k} of 20"):
            abs_topk(x, k)


def kept_with_floor(w: Tensor, k: int, floor: int, axis: int) -> Tensor:
    """Mask by sorting: each line's own largest first, then the largest of the others."""
    lines = w if axis == 1 else w.T
    own = kept_by_sorting(lines, min(floor, lines.shape[1])) if floor else torch.zeros_like(lines, dtype=torch.bool)
    own = own if axis == 1 else own.T
    keys = w.double().abs().nan_to_num(nan=2e300, posinf=1e300) + own.double() * 1e301
    order = (-keys).flatten().argsort(dim=0, stable=True)[:k]
    return torch.zeros(w.numel(), dtype=torch.bool).scatter(0, order, True).view_as(w)


@both
@given(w=matrices(), share=st.floats(0, 1), floor=st.integers(0, 5), axis=st.sampled_from([0, 1]))
@settings(max_examples=150, deadline=None)
def test_exactly_k_weights_are_kept_and_the_floor_of_every_line(engine, w, share, floor, axis):
    floor = min(floor, w.shape[axis])
    least = max(1, floor * w.shape[1 - axis])
    k = least + int(share * (w.numel() - least))
    mask, ours = kept_with_floor(w, k, floor, axis), w.clone()
    engine.keep_topk_(ours, k, floor, axis)
    assert torch.equal(ours.nan_to_num(7), torch.where(mask, w, 0).nan_to_num(7))


@needs_compiler
def test_a_large_matrix_with_ties_is_the_same_compiled_and_not():
    w = (torch.randn(300, 517, generator=torch.Generator().manual_seed(1)) * 8).round() / 8
    for floor, axis in ((0, 1), (4, 1), (4, 0)):
        ours, theirs = w.clone(), w.clone()
        native.keep_topk_(ours, 5000, floor, axis)
        twins.keep_topk_(theirs, 5000, floor, axis)
        assert torch.equal(ours, theirs)
        assert int((kept_with_floor(w, 5000, floor, axis) & (w != 0)).sum()) == int((ours != 0).sum())


def test_a_quota_that_cannot_be_kept_is_refused():
    for k, floor in ((0, 0), (31, 0), (11, 4)):
        with pytest.raises(UserError, match=f"cannot keep {k} of 30 weights"):
            keep_topk_(torch.randn(3, 10), k, floor)
    vector = torch.tensor([3.0, -5.0, 1.0])
    keep_topk_(vector, 1)
    assert vector.tolist() == [0, -5, 0]


@needs_compiler
def test_repeated_runs_and_other_thread_counts_give_the_same_bits():
    x, before = torch.randn(200, 100), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 2):
            torch.set_num_threads(threads)
            results.append(abs_topk(x, 25))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
