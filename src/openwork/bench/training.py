"""Speed of training steps at the final density.

naive     the method in plain PyTorch: dense products with masked weights, torch.topk for both selections
dense     plain dense training of the same shape in plain PyTorch
exact     this package, exact mode
fast      this package, fast mode, with its share of steps that refresh
limit     the useful multiply-adds of a step (kept weights: forward, dX, dW; attention) at this machine's measured peak
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor

from openwork.bench.plain import plain_stepper
from openwork.bench.timing import interleave, peak, times
from openwork.memory import keep_freed_memory
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig
from openwork.training.gradient import Gradient
from openwork.training.loop import make_optimizer, pick_device, train_step


def bench_training(
    layers: int,
    d_model: int,
    density: float,
    *,
    n_ctx: int = 256,
    batch_size: int = 4,
    rounds: int = 7,
    refresh_every: int = TrainConfig.refresh_every,
    device: Literal["cpu", "cuda"] = "cpu",
) -> dict[str, Any]:
    """Median tokens per second of each way to take a training step, and ratios within rounds.

    Random tokens: speed does not depend on the text. Steps that refresh in fast mode are timed apart and counted
    once in `refresh_every`. On a GPU all ways multiply in bfloat16, and `limit` is by its peak for dense products.

    Raises:
        UserError: `device` is "cuda" and there is no GPU.
    """
    pick_device(device)
    keep_freed_memory()  # as `train` does
    shape = ModelConfig(n_layers=layers, d_model=d_model, n_ctx=n_ctx)
    config = TrainConfig(
        model=shape,
        sparsity=SparsityConfig(density=density, anneal_start=0, anneal_end=0),
        batch_size=batch_size,
        refresh_every=refresh_every,
    )
    of_dense = replace(config, model=replace(shape, activation_fraction=1.0), sparsity=SparsityConfig(density=1))
    batch = torch.randint(0, shape.d_vocab, (batch_size, n_ctx + 1), generator=torch.Generator().manual_seed(0))
    batch = batch.to(device)
    fast = stepper(replace(config, mode="fast"), batch)
    steps = {
        "naive": (plain_stepper(Transformer(shape).to(device), config, batch), 1),
        "dense": (plain_stepper(Transformer(of_dense.model).to(device), of_dense, batch), 1),
        "exact": (stepper(config, batch), 1),
        "refresh": (fast, refresh_every),
        "fast": (fast, refresh_every + 1),
    }
    seconds = interleave({name: lambda f=f, n=n: f(n) for name, (f, n) in steps.items()}, rounds)
    refresh = seconds.pop("refresh")
    between, share = seconds["fast"], 1 / refresh_every
    seconds["fast"] = [share * r + (1 - share) * b for r, b in zip(refresh, between, strict=True)]
    tokens, useful = n_ctx * batch_size, multiply_adds(shape, density)
    speed = {name: tokens / median(s) for name, s in seconds.items()}
    return {
        "layers": layers,
        "d_model": d_model,
        "density": density,
        "n_ctx": n_ctx,
        "batch_size": batch_size,
        "refresh_every": refresh_every,
        "threads": torch.get_num_threads(),
        "device": device if device == "cpu" else torch.cuda.get_device_name(),
        "tokens_per_second": {**speed, "limit": peak(device) / useful},
        "times_naive": {name: times(seconds["naive"], s) for name, s in seconds.items()},
        "times_dense": {name: times(seconds["dense"], s) for name, s in seconds.items()},
        "seconds_fast": {"refresh": median(refresh), "between": median(between)},
    }


def stepper(config: TrainConfig, batch: Tensor, record: bool = True) -> Callable[[int], object]:
    """A function that takes the training step of a given number with this package; `record` as in `Gradient`.

    Fast mode is fast as soon as the density no longer falls.
    """
    config = replace(config, fast_from=0)
    model = Transformer(config.model).to(batch.device)
    optimizer, gradient = make_optimizer(model, config), Gradient(model, config.precision, record)
    train_step(gradient, optimizer, batch, 0, config)
    return lambda number: train_step(gradient, optimizer, batch, number, config)


def multiply_adds(shape: ModelConfig, density: float) -> float:
    """Useful ones per token of a training step: three for every kept weight of a product, and attention's."""
    kept = density * shape.n_layers * (4 * shape.d_model**2 + 2 * shape.d_model * shape.d_mlp)
    kept += min(1.0, 4 * density) * shape.d_model * shape.d_vocab
    return 3 * kept + 3 * shape.n_layers * shape.d_model * shape.n_ctx
