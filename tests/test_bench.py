"""The bench compares ways to take one and the same step; its times are not tested."""

from __future__ import annotations

import json
import math

import pytest
import torch

from openwork import bench
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig
from openwork.sparsity.optimizer import make_adam
from openwork.training import TrainConfig
from openwork.training.loop import train_step

WAYS = {"naive", "dense", "exact", "products"}


def test_it_reports_every_way_and_what_it_measured():
    numbers = json.loads(json.dumps(bench.bench_training(1, 32, 1 / 4, n_ctx=16, batch_size=2, rounds=3)))
    shape = {"layers": 1, "d_model": 32, "density": 0.25, "n_ctx": 16, "batch_size": 2}
    assert shape.items() <= numbers.items()
    assert WAYS <= numbers["tokens_per_second"].keys() == numbers["times_naive"].keys()
    speeds = [*numbers["tokens_per_second"].values(), *numbers["times_naive"].values()]
    assert all(speed > 0 and math.isfinite(speed) for speed in speeds)
    assert numbers["times_naive"]["naive"] == pytest.approx(1)


def one_step() -> dict[str, torch.Tensor]:
    shape = ModelConfig(n_layers=1, d_model=32, n_ctx=16, d_vocab=64)
    sparsity = SparsityConfig(density=1 / 4, floor=0, anneal_start=0, anneal_end=0)  # naive floors keep more
    config = TrainConfig(model=shape, sparsity=sparsity, batch_size=2)
    model = Transformer(shape, seed=1)
    optimizer = make_adam(model.named_parameters(), config.betas, config.eps, config.weight_decay)
    batch = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    train_step(model, optimizer, batch, config.n_steps // 2, config)
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_the_naive_method_takes_the_same_step():
    exact = one_step()
    with bench._naive_selection():
        naive = one_step()
    start = dict(Transformer(ModelConfig(n_layers=1, d_model=32, n_ctx=16, d_vocab=64), seed=1).named_parameters())
    assert any(not torch.equal(exact[name], start[name]) for name in exact)
    for name in exact:
        torch.testing.assert_close(naive[name], exact[name], atol=1e-5, rtol=0, msg=name)
