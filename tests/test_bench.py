"""The bench's report has its shape, and the naive way takes the same step as ours; no times are tested."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from openwork.bench import _naive_selection, bench_training
from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig
from openwork.sparsity.optimizer import make_adam
from openwork.training import TrainConfig
from openwork.training.loop import train_step

WAYS = {"naive", "dense", "exact", "products"}


def test_the_report_has_its_shape():
    numbers = json.loads(json.dumps(bench_training(1, 32, 1 / 4, n_ctx=8, batch_size=2, rounds=2)))
    assert set(numbers["tokens_per_second"]) == set(numbers["times_naive"]) == WAYS
    assert all(speed > 0 for speed in numbers["tokens_per_second"].values())
    assert numbers["times_naive"]["naive"] == 1
    asked = {"layers": 1, "d_model": 32, "density": 0.25, "n_ctx": 8, "batch_size": 2}
    assert asked.items() <= numbers.items()


@pytest.mark.parametrize("floor", [0, 2])
def test_naive_and_exact_take_the_same_step(floor):
    sparsity = SparsityConfig(density=1 / 4, floor=floor, anneal_start=0, anneal_end=0)
    shape = ModelConfig(n_layers=2, d_model=32, d_head=8, n_ctx=16, d_vocab=50)
    config = TrainConfig(model=shape, sparsity=sparsity, batch_size=2, tokens=320, learning_rate=0.02)
    batch = torch.randint(0, 50, (2, 17), generator=torch.Generator().manual_seed(1))
    exact = Transformer(shape)
    naive = copy.deepcopy(exact)
    for model in (exact, naive):
        optimizer = make_adam(model.named_parameters(), config.betas, config.eps, config.weight_decay)
        if model is naive:
            with _naive_selection():
                measured_naive = train_step(model, optimizer, batch, 5, config)
        else:
            measured = train_step(model, optimizer, batch, 5, config)
    assert measured["loss"] == pytest.approx(measured_naive["loss"], abs=1e-5)
    start = dict(Transformer(shape).named_parameters())
    for name, ours in exact.named_parameters():
        theirs = dict(naive.named_parameters())[name]
        assert (ours - theirs).abs().max() < 1e-5, name
        assert floor or int((ours != 0).sum()) == int((theirs != 0).sum()), name
    assert (exact.embed.weight - start["embed.weight"]).abs().max() > 1e-3


def test_impossible_sizes_are_refused():
    with pytest.raises(UserError, match="rounds is 0"):
        bench_training(1, 32, 1 / 4, rounds=0)
    with pytest.raises(UserError, match="not divisible"):
        bench_training(1, 30, 1 / 4)
