"""Speed of training steps, measured in one process with interleaved runs: medians, and ratios to the naive method.

naive      the method as public code does it: dense products, torch.topk for weights and for activations
dense      the same shape without sparsity of any kind
exact      this package
products   the matrix products of a step alone (forward, dX and dW, dense), at the speed PyTorch has here
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from statistics import median
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig
from openwork.sparsity.optimizer import make_adam
from openwork.training import TrainConfig
from openwork.training.loop import train_step


def bench_training(
    layers: int, d_model: int, density: float, *, n_ctx: int = 256, batch_size: int = 4, rounds: int = 7
) -> dict[str, Any]:
    """Median tokens per second of each way to take a training step, at the final density.

    `rounds` interleaved steps of each are timed after one that is not. Random tokens: speed does not depend on the
    text.
    """
    if rounds < 1:
        raise UserError(f"rounds is {rounds}; at least 1 is needed")
    shape = ModelConfig(n_layers=layers, d_model=d_model, n_ctx=n_ctx)
    sparse = _stepper(shape, density, batch_size)
    dense = _stepper(replace(shape, activation_fraction=1.0), 1.0, batch_size)

    def naive() -> None:
        with _naive_selection():
            sparse()

    ways = {"naive": naive, "dense": dense, "exact": sparse, "products": _products(layers, d_model, n_ctx * batch_size)}
    seconds = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - began)
    tokens = n_ctx * batch_size
    medians = {name: median(times) for name, times in seconds.items()}
    return {
        "layers": layers,
        "d_model": d_model,
        "density": density,
        "n_ctx": n_ctx,
        "batch_size": batch_size,
        "threads": torch.get_num_threads(),
        "tokens_per_second": {name: tokens / time for name, time in medians.items()},
        "times_naive": {
            name: median(n / s for n, s in zip(seconds["naive"], times, strict=True)) for name, times in seconds.items()
        },
    }


def _stepper(model: ModelConfig, density: float, batch_size: int) -> Callable[[], None]:
    """A function that takes one training step at the end of annealing."""
    config = TrainConfig(
        model=model, sparsity=SparsityConfig(density=density, anneal_start=0, anneal_end=0), batch_size=batch_size
    )
    transformer = Transformer(model)
    optimizer = make_adam(transformer.named_parameters(), config.betas, config.eps, config.weight_decay)
    batch = torch.randint(0, model.d_vocab, (batch_size, model.n_ctx + 1), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        train_step(transformer, optimizer, batch, config.n_steps // 2, config)

    return step


def _products(layers: int, d_model: int, tokens: int, d_vocab: int = 2048) -> Callable[[], None]:
    """The matrix products of a step and nothing else: of every matrix, forward, dX and dW."""
    shapes = layers * [*[(d_model, d_model)] * 4, (d_model, 4 * d_model), (4 * d_model, d_model)] + [(d_model, d_vocab)]
    operands = {
        shape: (torch.randn(tokens, shape[0]), torch.randn(shape), torch.randn(tokens, shape[1])) for shape in shapes
    }

    def multiply() -> None:
        for shape in shapes:
            x, w, dy = operands[shape]
            torch.mm(x, w)
            torch.mm(dy, w.T)
            torch.mm(x.T, dy)

    return multiply


@contextmanager
def _naive_selection() -> Iterator[None]:
    """Within, both selections are made by torch.topk, as public implementations of the method do."""

    def naive_abs_topk(x: Tensor, k: int) -> Tensor:
        chosen = x.abs().topk(k, dim=-1).indices
        return torch.zeros_like(x).scatter(-1, chosen, x.gather(-1, chosen))

    def naive_keep_topk_(weight: Tensor, k: int, floor: int = 0, axis: int = 1) -> None:
        keep = torch.zeros(weight.numel(), dtype=torch.bool)
        keep[weight.abs().flatten().topk(k).indices] = True
        if floor and weight.dim() == 2:
            line = torch.zeros_like(weight, dtype=torch.bool)
            line.scatter_(axis, weight.abs().topk(min(floor, weight.shape[axis]), dim=axis).indices, True)
            keep |= line.flatten()
        weight.mul_(keep.view_as(weight))

    with (
        mock.patch("openwork.model.transformer.abs_topk", naive_abs_topk),
        mock.patch("openwork.sparsity.projection.keep_topk_", naive_keep_topk_),
    ):
        yield
