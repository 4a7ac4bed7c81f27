"""The selections and Adam on a GPU, in Triton, in few passes over memory. Selections give the bits of their twins.

`abs_topk` has one program for each row, which bisects for the smallest magnitude that is kept while the row stays in
registers. `keep_topk_each_` selects in any number of weights at once, in seven launches:

    keys      the magnitude of every entry as an integer; those of its line's floor become the largest of all
    counts    four times: how many keys have each value of one byte, from the highest byte, among those whose higher
              bytes are the bound's; so every weight's bound, the k-th largest key, becomes known byte by byte
    ties      how many keys equal the bound, where not all of these are kept
    kept      all above the bound, and of the equal ones the first

Importing this needs Triton, which comes with PyTorch for GPUs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

import torch
import triton
import triton.language as tl
from torch import Tensor

INFINITY = {torch.float32: 0x7F800000, torch.bfloat16: 0x7F80, torch.float16: 0x7C00}
"""For each type that the kernels take, infinity as an integer."""
LONGEST = 2**15
"""Entries of a row, or of a weight's line with a floor, that one program can hold."""
_SPAN, _CHUNK = tl.constexpr(8192), tl.constexpr(2048)
"""Entries of a weight that a program sees, and at a time."""
_ADDRESS, _OFFSET, _SIZE, _K, _FLOOR, _LENGTH, _LINE, _STEP, _LINES_END, _SPANS_END = map(tl.constexpr, range(10))
"""What the table of weights says of each: where it lies, where its keys begin, how many entries it has, how many are
kept in all and of each line, the entries of a line, those from one line to the next and from one entry of it to the
next, and the number of lines and of spans of all weights up to it."""
_PARAMETER, _GRADIENT, _EXP_AVG, _EXP_AVG_SQ, _NUMBER, _ENDS = map(tl.constexpr, range(6))
"""The same of a table for Adam: where four tensors lie, their size, and the number of spans up to them."""


def usable(x: Tensor) -> bool:
    """Whether `abs_topk` can work on x (..., d)."""
    return x.is_cuda and x.dtype in INFINITY and x.shape[-1] <= LONGEST


def abs_topk(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `openwork.kernels.twins.abs_topk`."""
    x, d = x.detach().contiguous(), x.shape[-1]
    y, zero_cut = torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.int32)
    if x.numel():
        bits = 8 * x.element_size() - 1
        block = triton.next_power_of_2(d)
        _abs_topk[(zero_cut.numel(),)](
            *map(_integers, (x, y)), zero_cut, d, k, bits, INFINITY[x.dtype], block, num_warps=_warps(block)
        )
    return y, zero_cut


def abs_topk_backward(dy: Tensor, y: Tensor, zero_cut: Tensor) -> Tensor:
    """As `openwork.kernels.twins.abs_topk_backward`; y and zero_cut as `abs_topk` returned them."""
    dx, d = torch.empty_like(y), y.shape[-1]
    if y.numel():
        block = triton.next_power_of_2(d)
        grid = (zero_cut.numel(),)
        _abs_topk_backward[grid](dy.contiguous(), y, zero_cut, dx, d, block, num_warps=_warps(block))
    return dx


def can_keep(weight: Tensor, floor: int, axis: int) -> bool:
    """Whether `keep_topk_each_` can select in weight (rows, cols)."""
    return weight.is_cuda and weight.dtype == torch.float32 and (not floor or weight.shape[axis] <= LONGEST)


def keep_topk_each_(wanted: Sequence[tuple[Tensor, int, int, int]]) -> None:
    """As `openwork.kernels.twins.keep_topk_each_`; the weights lie on one device."""
    dense = [weight.detach().contiguous() for weight, *_ in wanted]
    device, sizes = dense[0].device, [weight.numel() for weight in dense]
    lengths = [weight.shape[axis] for weight, _, floor, axis in wanted if floor]
    block = triton.next_power_of_2(max(lengths, default=_CHUNK.value))
    about = []
    for weight, (_, k, floor, axis) in zip(dense, wanted, strict=True):
        rows, cols = weight.shape
        lines, *line = (rows, cols, cols, 1) if axis == 1 else (cols, rows, 1, cols)
        if not floor:  # any parts will do
            lines, *line = triton.cdiv(weight.numel(), block), block, block, 1
        about.append([weight.data_ptr(), weight.numel(), k, floor, *line, lines])
    addresses, _, *others, lines = zip(*about, strict=True)
    line_ends, span_ends = (list(accumulate(n)) for n in (lines, [triton.cdiv(size, _SPAN.value) for size in sizes]))
    offsets = [0, *accumulate(sizes)][:-1]
    columns = addresses, offsets, sizes, *others, line_ends, span_ends
    table, width = _table(tuple(map(tuple, columns)), device)

    keys = torch.empty(sum(sizes), dtype=torch.int32, device=device)
    counts = torch.zeros(4, width, 256, dtype=torch.int32, device=device)
    ties = torch.empty(span_ends[-1], dtype=torch.int32, device=device)
    most = max(floor for _, _, floor, _ in wanted)
    _keys[(line_ends[-1],)](table, keys, width, most, INFINITY[torch.float32], block, num_warps=_warps(block))
    for done in range(4):
        _count[(span_ends[-1],)](table, keys, counts, width, done)
    _count_ties[(span_ends[-1],)](table, keys, counts, ties, width)
    _keep[(span_ends[-1],)](table, keys, counts, ties.cumsum(0), width)
    for weight, (original, *_) in zip(dense, wanted, strict=True):
        if weight.data_ptr() != original.data_ptr():
            original.copy_(weight)
        else:
            torch.autograd.graph.increment_version(original)


def can_step(x: Tensor) -> bool:
    """Whether `adam_step_each_` can work on x."""
    return x.is_cuda and x.dtype == torch.float32


def adam_step_each_(each: Sequence[tuple[Tensor, ...]], *numbers: float) -> None:
    """As `openwork.kernels.twins.adam_step_` for each four tensors; all but the gradient are contiguous."""
    each = [(parameter, gradient.contiguous(), *moments) for parameter, gradient, *moments in each]
    assert all(x.is_contiguous() for tensors in each for x in tensors)
    sizes = [parameter.numel() for parameter, *_ in each]
    ends = list(accumulate(triton.cdiv(size, _SPAN.value) for size in sizes))
    addresses = zip(*([x.data_ptr() for x in tensors] for tensors in each), strict=True)
    table, width = _table((*addresses, tuple(sizes), tuple(ends)), each[0][0].device)
    _adam_step[(ends[-1],)](table, *map(float, numbers), width)
    for parameter, *_ in each:
        torch.autograd.graph.increment_version(parameter)


@lru_cache(maxsize=16)
def _table(columns: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[Tensor, int]:
    """The columns on the device, each repeating its last number up to a power of two; and that. Not to be changed: who
    asks for the same ones gets the same tensor."""
    width = triton.next_power_of_2(len(columns[0]))
    padded = [[*column, *[column[-1]] * (width - len(column))] for column in columns]
    return torch.tensor(padded, device=device), width


def _integers(x: Tensor) -> Tensor:
    """The bits of x."""
    return x.view(torch.int32 if x.element_size() == 4 else torch.int16)


def _warps(block: int) -> int:
    """Threads for a line, in units of 32, that hold up to 32 entries each: within one unit sums are cheap."""
    return min(16, max(1, block // 1024))


@triton.jit
def _abs_topk(x, y, zero_cut, d, k, BITS: tl.constexpr, INFINITY: tl.constexpr, BLOCK: tl.constexpr):
    row, index = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = index < d
    value = tl.load(x + row * d + index, mask=inside, other=0)
    key = tl.where(inside, tl.minimum(value.to(tl.int32) & ((1 << BITS) - 1), INFINITY + 1), -1)
    bound, higher, reached = 0, tl.max(key, 0) + 1, d
    while (reached != k) & (higher - bound > 1):  # the keys that reach `bound` are at least k, those `higher` fewer
        middle = bound + (higher - bound) // 2
        reach = tl.sum((key >= middle).to(tl.int32), 0)
        bound, higher = tl.where(reach >= k, middle, bound), tl.where(reach >= k, higher, middle)
        reached = tl.where(reach >= k, reach, reached)
    above, equal = key > bound, key == bound
    room = k - tl.sum(above.to(tl.int32), 0)
    kept = above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))
    tl.store(y + row * d + index, tl.where(kept, value, 0), mask=inside)
    tl.store(zero_cut + row, tl.max(tl.where(kept & (key == 0), index, -1), 0))


@triton.jit
def _abs_topk_backward(dy, y, zero_cut, dx, d, BLOCK: tl.constexpr):
    row, index = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = index < d
    kept = (tl.load(y + row * d + index, mask=inside, other=0) != 0) | (index <= tl.load(zero_cut + row))
    gradient = tl.load(dy + row * d + index, mask=inside & kept, other=0)
    tl.store(dx + row * d + index, gradient, mask=inside)


@triton.jit
def _about(table, weight, what: tl.constexpr, WIDTH: tl.constexpr):
    return tl.load(table + what * WIDTH + weight)


@triton.jit
def _place(table, ends: tl.constexpr, WIDTH: tl.constexpr):
    """This program's weight, and its number among those of the weight."""
    program = tl.program_id(0)
    weight = tl.sum((tl.load(table + ends * WIDTH + tl.arange(0, WIDTH)) <= program).to(tl.int32), 0)
    return weight, program - tl.load(table + ends * WIDTH + weight - 1, mask=weight > 0, other=0)


@triton.jit
def _keys(table, keys, WIDTH: tl.constexpr, MOST: tl.constexpr, INFINITY: tl.constexpr, BLOCK: tl.constexpr):
    weight, line = _place(table, _LINES_END, WIDTH)
    index = tl.arange(0, BLOCK)
    at = line * _about(table, weight, _LINE, WIDTH) + index * _about(table, weight, _STEP, WIDTH)
    inside = (index < _about(table, weight, _LENGTH, WIDTH)) & (at < _about(table, weight, _SIZE, WIDTH))
    values = _about(table, weight, _ADDRESS, WIDTH).to(tl.pointer_type(tl.int32))
    value = tl.load(values + at, mask=inside, other=0)
    key = tl.where(inside, tl.minimum(value & 0x7FFFFFFF, INFINITY + 1), -1)
    rest = key
    floor = _about(table, weight, _FLOOR, WIDTH)
    for n in range(MOST):
        first = tl.min(tl.where(rest == tl.max(rest, 0), index, BLOCK), 0)
        rest = tl.where((index == first) & (n < floor), -1, rest)
    own = rest != key
    tl.store(keys + _about(table, weight, _OFFSET, WIDTH) + at, tl.where(own, 0x7FFFFFFF, key), mask=inside)


@triton.jit
def _bound(counts, weight, k, done: tl.constexpr, WIDTH: tl.constexpr):
    """The `done` highest bytes of the bound; how many of the keys that begin so are kept, and how many there are."""
    byte, bound, room, equal = tl.arange(0, 256), 0, k, k
    for n in tl.static_range(done):
        count = tl.load(counts + (n * WIDTH + weight) * 256 + byte)
        here = tl.max(tl.where(tl.cumsum(count, 0, reverse=True) >= room, byte, 0), 0)
        room -= tl.sum(tl.where(byte > here, count, 0), 0)
        equal = tl.sum(tl.where(byte == here, count, 0), 0)
        bound = bound * 256 + here
    return bound, room, equal


@triton.jit
def _count(table, keys, counts, WIDTH: tl.constexpr, done: tl.constexpr):
    weight, span = _place(table, _SPANS_END, WIDTH)
    size, keys = _about(table, weight, _SIZE, WIDTH), keys + _about(table, weight, _OFFSET, WIDTH)
    bound, _, _ = _bound(counts, weight, _about(table, weight, _K, WIDTH).to(tl.int32), done, WIDTH)
    byte, total, others = tl.arange(0, 256), tl.zeros([256], tl.int32), 0
    for start in tl.static_range(0, _SPAN, _CHUNK):
        at = span * _SPAN + start + tl.arange(0, _CHUNK)
        key = tl.load(keys + at, mask=at < size, other=-1)
        counted = key >= 0
        if done > 0:
            counted = counted & (key >> (32 - 8 * done) == bound)
        total += tl.histogram(tl.where(counted, (key >> (24 - 8 * done)) & 255, 0), 256)
        others += _CHUNK - tl.sum(counted.to(tl.int32), 0)
    total -= tl.where(byte == 0, others, 0)
    tl.atomic_add(counts + (done * WIDTH + weight) * 256 + byte, total, mask=total > 0)


@triton.jit
def _count_ties(table, keys, counts, ties, WIDTH: tl.constexpr):
    weight, span = _place(table, _SPANS_END, WIDTH)
    size, keys = _about(table, weight, _SIZE, WIDTH), keys + _about(table, weight, _OFFSET, WIDTH)
    bound, room, equal = _bound(counts, weight, _about(table, weight, _K, WIDTH).to(tl.int32), 4, WIDTH)
    found = 0
    if equal > room:
        for start in tl.static_range(0, _SPAN, _CHUNK):
            at = span * _SPAN + start + tl.arange(0, _CHUNK)
            found += tl.sum((tl.load(keys + at, mask=at < size, other=-1) == bound).to(tl.int32), 0)
    tl.store(ties + tl.program_id(0), found)


@triton.jit
def _keep(table, keys, counts, ties, WIDTH: tl.constexpr):
    weight, span = _place(table, _SPANS_END, WIDTH)
    size, keys = _about(table, weight, _SIZE, WIDTH), keys + _about(table, weight, _OFFSET, WIDTH)
    values = _about(table, weight, _ADDRESS, WIDTH).to(tl.pointer_type(tl.int32))
    bound, room, equal = _bound(counts, weight, _about(table, weight, _K, WIDTH).to(tl.int32), 4, WIDTH)
    program, last = tl.program_id(0), tl.where(equal > room, room, size)
    before = tl.load(ties + program - 1, mask=program > 0, other=0)
    before -= tl.load(ties + program - span - 1, mask=program > span, other=0)
    for start in tl.static_range(0, _SPAN, _CHUNK):
        at = span * _SPAN + start + tl.arange(0, _CHUNK)
        key = tl.load(keys + at, mask=at < size, other=-1)
        tied = (key == bound).to(tl.int32)
        order = tl.where(key == bound, before + tl.cumsum(tied, 0), 0)
        before += tl.sum(tied, 0)
        tl.store(values + at, 0, mask=(at < size) & ((key < bound) | (order > last)))


@triton.jit
def _adam_step(table, scale, beta1, beta2, eps, size, root, shrink, WIDTH: tl.constexpr):
    which, span = _place(table, _ENDS, WIDTH)
    parameters = _about(table, which, _PARAMETER, WIDTH).to(tl.pointer_type(tl.float32))
    gradients = _about(table, which, _GRADIENT, WIDTH).to(tl.pointer_type(tl.float32))
    exp_avgs = _about(table, which, _EXP_AVG, WIDTH).to(tl.pointer_type(tl.float32))
    exp_avg_sqs = _about(table, which, _EXP_AVG_SQ, WIDTH).to(tl.pointer_type(tl.float32))
    for start in tl.static_range(0, _SPAN, _CHUNK):
        at = span * _SPAN + start + tl.arange(0, _CHUNK)
        inside = at < _about(table, which, _NUMBER, WIDTH)
        gradient = tl.load(gradients + at, mask=inside, other=0) * scale
        m = tl.load(exp_avgs + at, mask=inside, other=0)
        v = tl.load(exp_avg_sqs + at, mask=inside, other=0)
        m += (1 - beta1) * (gradient - m)
        v = beta2 * v + (1 - beta2) * gradient * gradient
        parameter = tl.load(parameters + at, mask=inside, other=0)
        parameter = shrink * parameter - size * m / (tl.sqrt(v) / root + eps)
        tl.store(parameters + at, parameter, mask=inside)
        tl.store(exp_avgs + at, m, mask=inside)
        tl.store(exp_avg_sqs + at, v, mask=inside)
