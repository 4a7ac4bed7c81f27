"""The bench compares ways to take one and the same step; its times are not tested."""

from __future__ import annotations

import json
import math

import pytest
import torch

from openwork.bench import bench_training
from openwork.bench.plain import plain_stepper
from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig
from openwork.training import TrainConfig
from openwork.training.gradient import Gradient
from openwork.training.loop import make_optimizer, train_step


def test_it_reports_every_way_and_what_it_measured():
    numbers = json.loads(json.dumps(bench_training(1, 32, 1 / 4, n_ctx=16, batch_size=2, rounds=3)))
    assert {"layers": 1, "d_model": 32, "density": 0.25, "n_ctx": 16, "batch_size": 2}.items() <= numbers.items()
    assert {"naive", "dense", "exact", "fast", "limit"} <= numbers["tokens_per_second"].keys()
    speeds = [*numbers["tokens_per_second"].values(), *numbers["times_naive"].values()]
    assert all(speed > 0 and math.isfinite(speed) for speed in speeds)
    assert numbers["times_naive"]["naive"] == pytest.approx(1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so():
    with pytest.raises(UserError, match="PyTorch sees no GPU here"):
        bench_training(1, 32, 1 / 4, device="cuda")


def test_the_naive_method_takes_the_same_steps():
    shape = ModelConfig(n_layers=1, d_model=32, n_ctx=16, d_vocab=64)
    sparsity = SparsityConfig(density=1 / 4, floor=0, anneal_start=0, anneal_end=0)  # naive floors keep more
    config = TrainConfig(model=shape, sparsity=sparsity, batch_size=2)
    batch = torch.randint(0, 64, (2, 17), generator=torch.Generator().manual_seed(0))
    ours, naive = Transformer(shape, seed=1), Transformer(shape, seed=1)
    optimizer, gradient = make_optimizer(ours, config), Gradient(ours)
    plain_step = plain_stepper(naive, config, batch)
    for number in range(300, 303):
        train_step(gradient, optimizer, batch, number, config)
        plain_step(number)
    theirs, start = dict(naive.named_parameters()), dict(Transformer(shape, seed=1).named_parameters())
    assert any(not torch.equal(parameter, start[name]) for name, parameter in ours.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], atol=1e-5, rtol=0, msg=name)
