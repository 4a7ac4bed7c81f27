"""Fast mode against its definition in dense arithmetic, and against the exact mode where the two are one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from openwork.model import ModelConfig, Transformer
from openwork.sparsity import Quota, SparsityConfig
from openwork.training import TrainConfig
from openwork.training.loop import make_optimizer, train_step

SHAPE = ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=8, d_vocab=40)


def run(mode: str, refresh_every: int, steps: int, *, tied: bool = False, anneal_end: float = 0.5):
    """A model after `steps` of 12 training steps on random tokens, and its optimiser."""
    config = TrainConfig(
        model=ModelConfig(**{**vars(SHAPE), "tied": tied}),
        sparsity=SparsityConfig(
            density=1 / 16, embedding_density=1 / 8, floor=1, anneal_start=0, anneal_end=anneal_end
        ),
        tokens=12 * 4 * 8,
        batch_size=4,
        learning_rate=0.5,
        mode=mode,
        refresh_every=refresh_every,
    )
    model = Transformer(config.model, seed=0)
    optimizer, random = make_optimizer(model, config), torch.Generator().manual_seed(0)
    for step in range(steps):
        train_step(model, optimizer, torch.randint(0, 40, (4, 9), generator=random), step, config)
    return model, optimizer


def plan(optimizer) -> list[Quota]:
    """What every parameter may keep at the final density: of matrices, what they keep already."""
    return [Quota(name, optimizer.parameters[name], len(p), 0, 1) for name, p in optimizer.places.items()]


def weights(model: Transformer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_refreshed_at_every_step_it_is_the_exact_mode_but_for_the_moments_of_zeros():
    # From moments of zero the first step is the same; later those of what was zero make a difference.
    for steps, same in ((1, True), (8, False)):
        exact, fast = (weights(run(mode, 1, steps, anneal_end=0)[0]) for mode in ("exact", "fast"))
        assert all(torch.equal(exact[name], fast[name]) for name in exact) == same


def test_between_refreshes_the_kept_weights_stay_the_kept_ones():
    early, late = run("fast", 4, 5, anneal_end=0.25)[1], run("fast", 4, 8, anneal_end=0.25)[1]  # step 4 refreshes
    assert set(late.places) == {name for name, p in late.parameters.items() if p.dim() == 2}
    late.settle()
    for name, places in late.places.items():
        assert torch.equal(places, early.places[name])
        assert torch.equal(late.parameters[name].flatten().nonzero().squeeze(1), places)


def test_at_a_refresh_a_zero_with_a_large_gradient_returns_and_another_weight_goes():
    _, optimizer = run("fast", 4, 8)
    optimizer.begin(8)
    for parameter in optimizer.parameters.values():
        parameter.grad = torch.zeros_like(parameter)
    weight, before = optimizer.parameters["unembed.weight"], optimizer.places["unembed.weight"]
    zero = int((weight == 0).flatten().nonzero()[7])
    weight.grad.view(-1)[zero] = 1.0
    optimizer.step(5.0, optimizer.gradient_rms(), plan(optimizer))
    after = optimizer.places["unembed.weight"]
    assert zero not in before and set(after.tolist()) - set(before.tolist()) == {zero} and len(after) == len(before)
    index = sum(len(p) for p in list(optimizer.places.values())[:-1]) + int((after == zero).nonzero())
    rms = weight.numel() ** -0.5 * (weight.numel() / optimizer.n_weights) ** 0.5
    assert float(optimizer.exp_avg[index]) == pytest.approx(0.1 / rms)  # as if its moments had been zero


def test_memory_of_the_optimiser_follows_the_non_zeros():
    model, optimizer = run("fast", 4, 8)
    kept = sum(len(places) for places in optimizer.places.values())
    assert optimizer.exp_avg.shape == optimizer.exp_avg_sq.shape == (kept,)
    assert all(model.get_parameter(name).dim() == 1 for name in optimizer.moments)


def test_a_step_between_refreshes_is_adam_on_the_kept_weights():
    for tied in (False, True):
        check_one_step(tied)


def check_one_step(tied: bool) -> None:
    model, optimizer = run("fast", 4, 9, tied=tied)
    before, moments = {n: p.clone() for n, p in weights_now(model, optimizer).items()}, copy.deepcopy(optimizer.state())
    batch = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(5))
    reference = Transformer(model.config)
    reference.load_state_dict(before, strict=False)
    logits = reference(batch[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten()).backward()
    seen = 0.0
    for name, parameter in reference.named_parameters():
        gradient = parameter.grad.flatten()
        seen += float((gradient[optimizer.places[name]] if name in optimizer.places else gradient).square().sum())
    n = sum(parameter.numel() for parameter in reference.parameters())
    rms = (optimizer.ratio * seen / n) ** 0.5

    optimizer.begin(9)
    torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
    torch.testing.assert_close(optimizer.gradient_rms(), rms, rtol=1e-4, atol=0)
    optimizer.step(0.02, rms, [])
    after, offset = weights_now(model, optimizer), 0
    for name, places in optimizer.places.items():
        m = moments["kept.exp_avg"][offset : offset + len(places)].clone()
        v = moments["kept.exp_avg_sq"][offset : offset + len(places)].clone()
        offset += len(places)
        m, v, w = step_of_adam(
            m, v, reference.get_parameter(name).grad.flatten()[places] / rms, before[name].flatten()[places]
        )
        torch.testing.assert_close(after[name].flatten()[places], w, rtol=1e-4, atol=1e-5)
        assert int(torch.count_nonzero(after[name])) == len(places)


def weights_now(model: Transformer, optimizer) -> dict[str, Tensor]:
    optimizer._write_back()
    return weights(model)


def step_of_adam(m: Tensor, v: Tensor, g: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The tenth step with betas 0.9 and 0.95, eps 0.1, decay 0.1, rate 0.02, written out."""
    m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
    m_hat, v_hat = m / (1 - 0.9**10), v / (1 - 0.95**10)
    return m, v, w * (1 - 0.02 * 0.1) - 0.02 * m_hat / (v_hat.sqrt() + 0.1)


def test_the_ratio_is_that_of_all_squares_to_those_seen():
    model, optimizer = run("fast", 4, 8)
    optimizer.begin(8)  # a refresh: the gradient of everything
    batch = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(6))
    torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    rms = optimizer.gradient_rms()
    everything = sum(float(g.square().sum()) for g in gradients.values())
    torch.testing.assert_close(rms, (everything / sum(g.numel() for g in gradients.values())) ** 0.5)
    optimizer.step(0.02, rms, plan(optimizer))
    seen = sum(
        float((g.flatten()[optimizer.places[name]] if name in optimizer.places else g).square().sum())
        for name, g in gradients.items()
    )
    torch.testing.assert_close(optimizer.ratio, everything / seen, rtol=1e-4, atol=0)
