from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig, count_nonzero, density_at, learning_rate_at, project_, quotas, sharkfin

MODEL = ModelConfig(n_layers=1, d_model=32, d_head=8, n_ctx=8, d_vocab=40, bigram="learned", positions="learned")


def dense_model() -> Transformer:
    model = Transformer(MODEL)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return model


@pytest.mark.parametrize("density", [1 / 4, 1 / 8])
def test_after_the_projection_every_parameter_has_exactly_its_non_zeros(density):
    model, config = dense_model(), SparsityConfig(density=density, floor=2)
    project_(quotas(model, config, density))
    l0 = count_nonzero(list(model.named_parameters()))
    for name in ("attn.q.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight"):
        parameter = model.get_parameter(f"blocks.0.{name}")
        assert l0[f"blocks.0.{name}"] == round(density * parameter.numel())
    assert l0["embed.weight"] == round(min(1, 4 * density) * model.embed.weight.numel())
    assert l0["blocks.0.mlp.up.bias"] == round(min(1, 4 * density) * 128)
    for dense in ("bigram", "position", "blocks.0.attn.sink", "blocks.0.attn_norm.weight"):
        assert l0[dense] == model.get_parameter(dense).numel()


def test_the_floor_is_kept_per_neuron_and_per_channel():
    model, config = dense_model(), SparsityConfig(density=1 / 8, floor=4)
    with torch.no_grad():
        model.blocks[0].mlp.up.weight[5] *= 1e-6  # neuron 5 would lose every input
        model.blocks[0].mlp.down.weight[:, 7] *= 1e-6  # neuron 7 would lose every output
        model.blocks[0].attn.k.weight[3] *= 1e-6
    project_(quotas(model, config, 1 / 8))
    block = model.blocks[0]
    assert int((block.mlp.up.weight != 0).sum(1).min()) == 4
    assert int((block.mlp.down.weight != 0).sum(0).min()) == 4
    assert int((block.attn.k.weight != 0).sum(1).min()) == 4
    assert int((block.attn.out.weight != 0).sum(0).min()) >= 4
    without = dense_model()
    with torch.no_grad():
        without.blocks[0].mlp.up.weight[5] *= 1e-6
    project_(quotas(without, SparsityConfig(density=1 / 8, floor=0), 1 / 8))
    assert int((without.blocks[0].mlp.up.weight[5] != 0).sum()) == 0


def test_the_projection_keeps_the_largest_and_is_idempotent():
    model, config = dense_model(), SparsityConfig(density=1 / 8, floor=0)
    before = model.blocks[0].attn.v.weight.detach().clone()
    project_(quotas(model, config, 1 / 8))
    once = model.blocks[0].attn.v.weight.detach().clone()
    threshold = before.abs().flatten().sort(descending=True).values[round(before.numel() / 8) - 1]
    assert torch.equal(once, torch.where(before.abs() >= threshold, before, 0))
    project_(quotas(model, config, 1 / 8))
    assert torch.equal(once, model.blocks[0].attn.v.weight)


def test_density_one_is_a_dense_model():
    assert quotas(dense_model(), SparsityConfig(density=1), 1.0) == []


def test_floors_that_need_more_than_the_matrix_may_keep_are_refused():
    with pytest.raises(UserError, match=r"blocks\.0\.attn\.q\.weight \(32, 32\) may keep 10 weights .* need 128"):
        quotas(dense_model(), SparsityConfig(density=0.01, floor=4), 0.01)


LESS = {"density": 0.25, "embedding_density": 0.1}


@pytest.mark.parametrize(
    "options",
    [
        {"density": 0},
        {"density": 1.5},
        {"floor": -1},
        {"anneal_start": 0.6, "anneal_end": 0.5},
        {"bias_density": 2},
        LESS,
    ],
)
def test_impossible_settings_are_refused(options):
    with pytest.raises(UserError):
        SparsityConfig(**options)


@given(st.floats(0, 1), st.sampled_from(["linear", "exponential"]))
@settings(max_examples=50)
def test_the_density_falls_from_one_to_its_end_and_stays_there(progress, anneal):
    config = SparsityConfig(density=1 / 64, anneal=anneal, anneal_start=0.1, anneal_end=0.5)
    density = density_at(progress, config)
    assert 1 / 64 <= density <= 1
    if progress <= 0.1:
        assert density == 1
    if progress >= 0.5:
        assert density == pytest.approx(1 / 64)
    assert density >= density_at(min(1, progress + 0.01), config) - 1e-12


def test_the_two_ways_to_anneal_half_way():
    linear = SparsityConfig(density=1 / 64, anneal="linear", anneal_start=0, anneal_end=1)
    assert density_at(0.5, linear) == pytest.approx((1 + 1 / 64) / 2)
    exponential = SparsityConfig(density=1 / 64, anneal="exponential", anneal_start=0, anneal_end=1)
    assert density_at(0.5, exponential) == pytest.approx(1 / 8)


def test_the_sharkfin_is_one_at_the_final_density_and_smallest_at_dense():
    config = SparsityConfig(density=1 / 64)
    assert sharkfin(1 / 64, config) == 1
    assert sharkfin(1.0, config) == pytest.approx(1 / 8)
    assert learning_rate_at(0.005, 1.0, 0.01, 1 / 64, config) == pytest.approx(0.5 * 0.995)
    assert learning_rate_at(1.0, 1.0, 0.01, 1 / 64, config) == 0
