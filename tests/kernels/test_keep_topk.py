"""The selection of weights: every engine against stable sorts in float64, with and without a floor on either axis."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels import keep_topk_, keep_topk_each_
from tests.kernels.engines import SELECTING, bits, engine, kept_by_sorting
from tests.kernels.test_abs_topk import matrices

every_engine = pytest.mark.parametrize("name", SELECTING)


def kept_with_floor(w: Tensor, k: int, floor: int, axis: int) -> Tensor:
    """Mask by sorting: each line's own `floor` largest, then the largest of the others until there are k."""
    lines = w if axis == 1 else w.T
    own = kept_by_sorting(lines, floor)
    own = own if axis == 1 else own.T
    keys = w.double().abs()
    keys = (
        torch.where(keys.isnan(), float("inf"), torch.where(keys.isinf(), 1e300, keys)).masked_fill(own, -1).flatten()
    )
    others = keys.argsort(descending=True, stable=True)[: k - int(own.sum())]
    return own.flatten().scatter(0, others, True).view_as(w)


@every_engine
@given(w=matrices(), turn=st.booleans(), share=st.floats(0, 1), floor=st.integers(0, 5), axis=st.sampled_from([0, 1]))
@settings(max_examples=100, deadline=None)
def test_exactly_k_are_kept_and_the_floor_of_every_line(name, w, turn, share, floor, axis):
    w = w.T.contiguous() if turn else w
    floor = min(floor, w.shape[axis])
    least = max(1, floor * w.shape[1 - axis])
    assume(least < w.numel())
    k = least + int(share * (w.numel() - 1 - least))
    kept, ours = kept_with_floor(w, k, floor, axis), w.clone()
    with engine(name) as kernels:
        kernels.keep_topk_each_([(ours, k, floor, axis)])
    assert int(kept.sum()) == k
    assert torch.equal(bits(ours), torch.where(kept, bits(w), 0))


@every_engine
@pytest.mark.parametrize(("floor", "axis"), [(0, 1), (4, 1), (4, 0), (40, 1), (40, 0)])
@pytest.mark.parametrize("steps", [8, 1e6])
def test_a_large_matrix_over_several_threads_with_and_without_ties(name, floor, axis, steps):
    w = (torch.randn(301, 517, generator=torch.Generator().manual_seed(1)) * steps).round() / steps
    for k in (floor * w.shape[1 - axis] + 1, 40_000, w.numel() - 1):
        ours = w.clone()
        with engine(name) as kernels:
            kernels.keep_topk_each_([(ours, k, floor, axis)])
        assert torch.equal(ours, torch.where(kept_with_floor(w, k, floor, axis), w, 0))


def sampled(n: int) -> Tensor:
    """The places of a matrix of n entries that the compiled kernels look at first."""
    return torch.tensor([((i * 0x9E3779B9) % 2**32 * n) >> 32 for i in range(min(4096, n // 32))])


@every_engine
@pytest.mark.parametrize("kind", ["misled up", "misled down", "NaN", "zeros", "equal", "sparse", "rows", "columns"])
def test_a_large_matrix_whose_sample_says_little(name, kind):
    random = torch.Generator().manual_seed(2)
    w, seen = torch.randn(300, 400, generator=random), sampled(300 * 400)
    match kind:
        case "misled up":
            w.view(-1)[seen] *= 1e6
        case "misled down":
            w.view(-1)[seen] *= 1e-6
        case "NaN":
            w[torch.rand(w.shape, generator=random) < 0.3] = float("nan")
        case "zeros":
            w[torch.rand(w.shape, generator=random) < 0.99] = 0
        case "equal":
            w = w.sign()
        case "sparse":
            w[torch.rand(w.shape, generator=random) < 0.9] = 0
        case "rows":  # of every size: of some nothing, of others all is larger than what is usual
            w *= torch.logspace(-3, 3, 300)[torch.randperm(300, generator=random)][:, None]
        case "columns":
            w *= torch.logspace(-3, 3, 400)[torch.randperm(400, generator=random)]
    for k, floor, axis in ((1600, 4, 0), (1200, 4, 1), (3000, 0, 1), (3000, 4, 1), (3000, 4, 0), (119_999, 4, 0)):
        ours = w.clone()
        with engine(name) as kernels:
            kernels.keep_topk_each_([(ours, k, floor, axis)])
        assert torch.equal(bits(ours), torch.where(kept_with_floor(w, k, floor, axis), bits(w), 0)), (k, floor, axis)


@every_engine
def test_many_at_once_keep_what_each_alone_would(name):
    random = torch.Generator().manual_seed(3)
    wanted = [
        (torch.randn(*shape, generator=random), k, floor, axis)
        for shape, k, floor, axis in [
            ((3, 10), 20, 0, 1),
            ((1, 2000), 5, 0, 1),
            ((70, 300), 400, 4, 1),
            ((300, 70), 400, 4, 0),
            ((900, 500), 9000, 2, 0),  # the threads share this one
            ((64, 64), 900, 0, 1),
            ((1, 70_000), 300, 0, 1),
            ((20, 600), 2400, 4, 0),  # its columns protect all that is kept
            ((1, 30), 29, 1, 1),
        ]
    ]
    kept = [torch.where(kept_with_floor(w, k, floor, axis), w, 0) for w, k, floor, axis in wanted]
    with engine(name) as kernels:
        kernels.keep_topk_each_(wanted)
    for (ours, *_), theirs in zip(wanted, kept, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_many_weights_at_once_keep_what_each_alone_would():
    wanted = [
        (torch.randn(shape), k, floor, axis)
        for shape, k, floor, axis in [
            ((3, 10), 20, 0, 1),
            ((70, 300), 400, 4, 1),
            ((300, 70), 400, 4, 0),
            ((2000,), 5, 0, 1),
            ((4, 4), 16, 1, 1),
            ((3, 3), 0, 0, 1),
            ((1000, 50_000), 4_000_000, 2, 1),
            ((64, 64), 900, 0, 1),
        ]
    ]
    there = [(w.cuda(), *rest) for w, *rest in wanted]
    transposed = torch.randn(50, 80)
    there.append((transposed.cuda().T, 90, 1, 1))
    wanted.append((transposed.clone().T, 90, 1, 1))
    keep_topk_each_(there)
    keep_topk_each_(wanted)
    for (ours, *_), (theirs, *_) in zip(there, wanted, strict=True):
        assert torch.equal(ours.cpu(), theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_autograd_notices_too():
    weight = torch.nn.Parameter(torch.randn(3, 4, device="cuda"))
    loss = (weight * weight).sum()
    keep_topk_(weight, 5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_floor_by_hand():
    w = torch.tensor([[9.0, 8.0, 7.0], [-1.0, 2.0, 3.0]])
    keep_topk_(w, 3, floor=1)  # 9 and 3 are protected; of the others 8 is the largest
    assert w.tolist() == [[9, 8, 0], [0, 0, 3]]
    w = torch.tensor([[9.0, 8.0, 7.0], [-1.0, 2.0, 3.0]])
    keep_topk_(w, 4, floor=1, axis=0)  # 9, 8 and 7 lead their columns, then 3
    assert w.tolist() == [[9, 8, 7], [0, 0, 3]]


def test_nan_and_infinity_are_kept_first_and_leave_nothing_behind():
    w = torch.tensor([1.0, float("inf"), 5.0, float("nan"), -float("inf")])
    keep_topk_(w, 2)
    assert w[3].isnan() and w[[0, 1, 2, 4]].tolist() == [0, float("inf"), 0, 0]
    keep_topk_(w, 1)
    assert w[3].isnan() and not w[[0, 1, 2, 4]].any()


@every_engine
def test_all_nans_are_equal_whatever_their_bits(name):
    w = torch.tensor([[0x7F800000, 0x7F800001, -1, 0x7FFFFFFF]], dtype=torch.int32).view(torch.float32)  # inf, NaNs
    with engine(name) as kernels:
        kernels.keep_topk_each_([(w, 2, 0, 1)])
    assert bits(w).tolist() == [[0, 0x7F800001, -1, 0]]


def test_vectors_views_and_types():
    vector = torch.tensor([3.0, -5.0, 1.0])
    keep_topk_(vector, 1, axis=0)
    assert vector.tolist() == [0, -5, 0]
    w = torch.randn(9, 11)
    want = torch.where(kept_with_floor(w, 30, 2, 1), w, 0)
    for ours in (w.clone(), w.T.contiguous().T, w.repeat(1, 2)[:, :11], w.double()):
        keep_topk_(ours, 30, 2)
        assert torch.equal(ours.float(), want)
    keep_topk_(w, w.numel())
    assert torch.count_nonzero(w) == w.numel()
    keep_topk_(w, 0)
    assert torch.count_nonzero(w) == 0
    short = torch.ones(4, 2)
    keep_topk_(short, 8, floor=3)  # a row of two keeps both
    assert short.sum() == 8


def test_autograd_notices_the_change():
    weight = torch.nn.Parameter(torch.randn(3, 4))
    loss = (weight * weight).sum()
    keep_topk_(weight, 5)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_quota_that_cannot_be_kept_is_refused_with_its_numbers():
    for k, floor, axis in ((31, 0, 1), (11, 4, 1), (29, 3, 0), (-1, 0, 1), (5, -1, 1)):
        with pytest.raises(
            UserError, match=rf"cannot keep {k} of 30 weights of shape \(3, 10\) with a floor of {floor}"
        ):
            keep_topk_(torch.randn(3, 10), k, floor, axis)
    with pytest.raises(UserError, match=r"\(2, 3, 4\)"):
        keep_topk_(torch.randn(2, 3, 4), 5)
