"""Where the time of a training step goes, by kind of work.

    python benchmarks/step_profile.py [--layers 4] [--d-model 256] [--density 1/64] [--mode fast] [--device cuda]

Shares of the time that PyTorch's profiler counts in operators, over ten steps (in fast mode none of them refreshes);
on a GPU, of the time that this works, without the kernels that Triton starts outside an operator (Adam, the selection
of weights), and with every operator started by Python, not from a recording as in training. ``--mode naive`` is the
method in PyTorch's own operators. The profiler itself adds a few microseconds to each operator.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from openwork.bench.plain import plain_stepper
from openwork.bench.training import stepper
from openwork.config import number
from openwork.memory import keep_freed_memory
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig

REFRESH_EVERY, FIRST, STEPS = 100, 2, 10
KINDS = {
    "sparse products": ("_Together", "_SparseLinear", "_ExactLinear"),
    "products that skip zero activations": ("skipping_product", "_Linear"),
    "dense products": ("aten::mm", "aten::addmm", "aten::bmm"),
    "attention": ("_Attention", "attention", "ScaledDotProduct"),
    "GELU with AbsTopK": ("_GELUAbsTopK",),
    "AbsTopK": ("_AbsTopK", "plain_abs_topk", "GatherBackward", "ScatterBackward"),
    "selection of weights": ("project_", "plain_keep_topk_"),
    "Adam": ("adam_step_", "Optimizer.step"),
    "norms": ("_RMSNorm", "rms_norm", "RmsNorm"),
    "cross-entropy": ("_CrossEntropy", "cross_entropy", "NllLoss", "LogSoftmax"),
}
"""Parts of the names of operators and functions; time counts for the innermost that is named here."""
NAMED = (
    ("openwork.sparsity.optimizer", "project_"),
    ("openwork.sparsity.optimizer", "adam_step_each_"),
    ("openwork.sparsity.kept", "project_"),
    ("openwork.sparsity.kept", "adam_step_"),
    ("openwork.kernels.library", "skipping_product"),
    ("openwork.bench.plain", "plain_keep_topk_"),
    ("openwork.bench.plain", "plain_abs_topk"),
    ("openwork.model.attention", "_extra_key_attention"),
)
"""Functions that the profiler does not see by itself."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--d-model", type=int, default=256)
    parser.add_argument("--density", type=lambda text: number(text, "--density"), default=1 / 64)
    parser.add_argument("--mode", choices=("exact", "fast", "naive"), default="fast")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    keep_freed_memory()
    config = TrainConfig(
        model=ModelConfig(n_layers=options.layers, d_model=options.d_model, n_ctx=256),
        sparsity=SparsityConfig(density=options.density, anneal_start=0, anneal_end=0),
        batch_size=options.batch_size,
        mode="fast" if options.mode == "fast" else "exact",
        refresh_every=REFRESH_EVERY,
    )
    batch = torch.randint(0, 2048, (options.batch_size, 257), generator=torch.Generator().manual_seed(0))
    with ExitStack() as stack:
        for module, name in NAMED:
            stack.enter_context(mock.patch(f"{module}.{name}", named(name, getattr(import_module(module), name))))
        batch = batch.to(options.device)
        if options.mode == "naive":
            step = plain_stepper(Transformer(config.model).to(options.device), config, batch)
        else:
            step = stepper(config, batch, record=False)
        report(step, options.device == "cuda")


def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, visible to the profiler."""

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with record_function(name):
            return function(*arguments, **options)

    return call


def report(step: Callable[[int], object], on_gpu: bool) -> None:
    for n in range(FIRST):
        step(n)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    began = time.perf_counter()
    for n in range(FIRST, FIRST + STEPS):
        step(n)
    if on_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    with profile(activities=activities) as profiler:
        for n in range(FIRST + STEPS, FIRST + 2 * STEPS):
            step(n)
        if on_gpu:
            torch.cuda.synchronize()
    times: dict[tuple[str, str], list[float]] = {}
    for event in sorted(profiler.events() or (), key=lambda event: event.time_range.start):
        if event.device_type == DeviceType.CPU:  # what an operator starts on the GPU counts as its own
            microseconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
            times.setdefault((kind_of(event), event.name), []).append(microseconds)
    spent: Counter[str] = Counter()
    for (kind, _), each in times.items():
        spent[kind] += per_step(each)
    for kind, microseconds in spent.most_common():
        print(f"{kind:20} {microseconds / spent.total():6.1%}")
    print(f"a step took {1e3 * seconds / STEPS:.2f} ms", end="")
    print(f"; the GPU worked {spent.total() / 1e3:.2f} ms of it" if on_gpu else "")


def per_step(each: list[float]) -> float:
    """The time of one operator in a step: the sum of its calls, each the median over the steps.

    While the profiler runs, a few calls wait for memory, which they do not without it.
    """
    if len(each) % STEPS:
        return sum(each) / STEPS
    return float(torch.tensor(each).view(STEPS, -1).median(0).values.sum())


def kind_of(event: Any) -> str:
    """That of the innermost operator or function around the event that has one."""
    while event is not None:
        for kind, parts in KINDS.items():
            if any(part in event.name for part in parts):
                return kind
        event = event.cpu_parent
    return "all else"


if __name__ == "__main__":
    main()
