"""Fast mode against its definition in dense arithmetic, and against the exact mode where the two are one."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.kernels import compress
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import Quota, SparsityConfig
from openwork.sparsity.kept import to_watch
from openwork.training import TrainConfig
from openwork.training.gradient import Gradient
from openwork.training.loop import make_optimizer, train_step

SHAPE = ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=8, d_vocab=40)


def run(
    mode: str,
    refresh_every: int,
    steps: int,
    *,
    density: float = 1 / 16,
    tied: bool = False,
    anneal_end: float = 0.5,
    fast_from: float = 0,
    device="cpu",
):
    """A model after `steps` of 12 training steps on random tokens, and its optimiser."""
    config = TrainConfig(
        model=ModelConfig(**{**vars(SHAPE), "tied": tied}),
        sparsity=SparsityConfig(
            density=density, embedding_density=max(density, 1 / 8), floor=1, anneal_start=0, anneal_end=anneal_end
        ),
        tokens=12 * 4 * 8,
        batch_size=4,
        learning_rate=0.5,
        mode=mode,
        refresh_every=refresh_every,
        fast_from=fast_from,
        precision="float32",
    )
    model = Transformer(config.model, seed=0).to(device)
    optimizer, gradient = make_optimizer(model, config), Gradient(model, "float32")
    random = torch.Generator().manual_seed(0)
    for step in range(steps):
        train_step(gradient, optimizer, torch.randint(0, 40, (4, 9), generator=random).to(device), step, config)
    return model, optimizer


def plan(optimizer) -> list[Quota]:
    """What every parameter may keep at the final density: of matrices, what they keep already."""
    return [
        Quota(name, optimizer.parameters[name], len(kept_places(optimizer, name)), 0, 1) for name in optimizer.places
    ]


def of(optimizer, name: str, vector: Tensor) -> Tensor:
    """The part of one matrix in a vector over the watched weights of all."""
    return dict(zip(optimizer.places, optimizer._split(vector), strict=True))[name]


def kept_places(optimizer, name: str) -> Tensor:
    return optimizer.places[name][of(optimizer, name, optimizer.is_kept)]


def watched_zeros(optimizer, name: str) -> Tensor:
    return optimizer.places[name][~of(optimizer, name, optimizer.is_kept)]


def weights(model: Transformer) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_refreshed_at_every_step_it_is_the_exact_mode_but_for_the_moments_of_zeros():
    # From moments of zero the first step is the same; later those of what was zero make a difference.
    for steps, same in ((1, True), (8, False)):
        exact, fast = (weights(run(mode, 1, steps, anneal_end=0)[0]) for mode in ("exact", "fast"))
        assert all(torch.equal(exact[name], fast[name]) for name in exact) == same


def test_without_sparse_layers_as_on_a_gpu_it_is_the_same_method(monkeypatch):
    with_layers, of_layers = run("fast", 4, 11)
    monkeypatch.setattr("openwork.training.loop.use_sparse_layers", lambda model: [])
    without, optimizer = run("fast", 4, 11)
    optimizer.settle()
    of_layers.settle()
    assert optimizer.places and of_layers.layers and not optimizer.layers
    for name, parameter in with_layers.named_parameters():
        torch.testing.assert_close(without.get_parameter(name), parameter)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_on_a_gpu_it_is_the_same_method(mode):
    here, there = (run(mode, 4, 11, device=device) for device in ("cpu", "cuda"))
    for _, optimizer in (here, there):
        optimizer.settle()
    for name, parameter in here[0].named_parameters():
        torch.testing.assert_close(there[0].get_parameter(name).cpu(), parameter, rtol=1e-3, atol=1e-4)


def test_without_kernels_there_are_no_sparse_layers(monkeypatch):
    monkeypatch.setattr("openwork.kernels.native", False)
    assert not run("fast", 4, 1)[1].layers


def test_where_fast_mode_never_begins_it_says_so(caplog):
    run("fast", 4, 1, density=1 / 4)
    assert "fast mode is exact mode at this density" in caplog.text
    caplog.clear()
    run("fast", 4, 1, density=1 / 8)
    assert not caplog.text


def test_between_refreshes_the_kept_and_the_watched_weights_stay_the_same():
    early, late = run("fast", 4, 5, anneal_end=0.25)[1], run("fast", 4, 8, anneal_end=0.25)[1]  # step 4 refreshes
    assert set(late.places) == {name for name, p in late.parameters.items() if p.dim() == 2} - {"embed.weight"}
    assert torch.equal(early.is_kept, late.is_kept)
    late.settle()
    for name, places in late.places.items():
        assert torch.equal(places, early.places[name])
        nonzero = late.parameters[name].flatten().nonzero().squeeze(1)
        assert torch.equal(nonzero, kept_places(late, name))
        assert len(places) == 2 * len(nonzero)


def test_what_is_not_kept_is_watched_where_its_momentum_is_largest_and_has_moments():
    _, optimizer = run("fast", 4, 9)  # step 8 refreshes
    for name, places in optimizer.places.items():
        zeros = places[~of(optimizer, name, optimizer.is_kept)]
        momentum = of(optimizer, name, optimizer.exp_avg)[~of(optimizer, name, optimizer.is_kept)].abs()
        assert len(zeros) and bool((momentum > 0).all()), name
        unwatched = torch.ones(optimizer.parameters[name].numel(), dtype=torch.bool)
        unwatched[places] = False
        assert optimizer.parameters[name].flatten()[unwatched].count_nonzero() == 0
    weight, momentum = (
        torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]]),
        torch.tensor([[1.0, 0.0, -3.0], [0.0, 2.0, 2.0]]),
    )
    assert to_watch(momentum.clone(), compress(weight), 3).flat.tolist() == [1, 2, 4]
    assert to_watch(momentum, compress(weight), 5).flat.tolist() == [0, 1, 2, 4, 5]


def test_at_a_refresh_watched_weights_keep_their_moments_and_new_ones_have_those_of_one_gradient():
    _, optimizer = run("fast", 4, 8)
    optimizer.begin(8)
    name, random = "unembed.weight", torch.Generator().manual_seed(0)
    weight, old, kept = optimizer.parameters[name], optimizer.places[name], kept_places(optimizer, name)
    known = torch.randn(2, len(old), generator=random)
    gradient = torch.randn(weight.shape, generator=random)
    weight.grad = gradient.clone()
    m, v = 0.1 * gradient.flatten() / 2, gradient.flatten() ** 2 / 4
    m[old], v[old] = known
    others = m.abs().scatter(0, kept, -1).argsort(descending=True)[: len(kept)]
    places = torch.cat([kept, others]).sort().values
    watched, moments = optimizer._watch(weight, compress(weight.detach()), 2.0, old, known, 2 * len(kept))
    assert torch.equal(watched.flat, places) and not set(places.tolist()) <= set(old.tolist())
    torch.testing.assert_close(moments, torch.stack([m, v])[:, places])


def refresh(optimizer, gradients: dict[str, tuple[int, float]], rate: float) -> float:
    """Step 8, a refresh, with a gradient of zero but for one weight of some matrices; returns its RMS."""
    optimizer.begin(8)
    for name, parameter in optimizer.parameters.items():
        parameter.grad = torch.zeros_like(parameter)
        if name in gradients:
            place, value = gradients[name]
            parameter.grad.view(-1)[place] = value
    rms = optimizer.gradient_rms()
    optimizer.step(rate, rms, plan(optimizer))
    optimizer.zero_grad()
    return rms


def test_at_a_refresh_a_watched_zero_with_a_large_gradient_returns_and_another_weight_goes():
    _, optimizer = run("fast", 4, 8)
    optimizer.begin(8)
    before = kept_places(optimizer, "unembed.weight")
    zero = int(watched_zeros(optimizer, "unembed.weight")[3])
    refresh(optimizer, {"unembed.weight": (zero, 1.0)}, rate=50.0)
    after = kept_places(optimizer, "unembed.weight")
    assert zero not in before and zero in after and len(after) == len(before)


def test_at_a_refresh_another_zero_stays_zero_and_is_watched():
    _, optimizer = run("fast", 4, 8)
    optimizer.begin(8)
    weight, before = optimizer.parameters["unembed.weight"], optimizer.places["unembed.weight"]
    zero = next(place for place in range(weight.numel()) if place not in before)
    rms = refresh(optimizer, {"unembed.weight": (zero, 1.0)}, rate=5.0)
    assert zero in watched_zeros(optimizer, "unembed.weight") and weight.flatten()[zero] == 0
    index = int((optimizer.places["unembed.weight"] == zero).nonzero())
    m, v = (of(optimizer, "unembed.weight", moment)[index] for moment in (optimizer.exp_avg, optimizer.exp_avg_sq))
    assert float(m) == pytest.approx(0.1 / rms)  # as if its gradient had been zero before
    assert float(v) == pytest.approx(1 / rms**2)  # as if it had always been as large


def test_at_a_refresh_what_was_watched_before_goes_on_with_its_moments():
    _, optimizer = run("fast", 4, 8)
    before = {
        name: (places, *(of(optimizer, name, moment).clone() for moment in (optimizer.exp_avg, optimizer.exp_avg_sq)))
        for name, places in optimizer.places.items()
    }
    refresh(optimizer, {"unembed.weight": (0, 1.0)}, rate=0.0)
    for name in before.keys() - {"unembed.weight"}:
        places, *moments = before[name]
        both = torch.isin(optimizer.places[name], places)
        assert both.any(), name
        for now, then, beta in zip((optimizer.exp_avg, optimizer.exp_avg_sq), moments, (0.9, 0.95), strict=True):
            expected = then[torch.isin(places, optimizer.places[name])] * beta
            torch.testing.assert_close(of(optimizer, name, now)[both], expected)


def test_a_watched_zero_stays_zero_and_gathers_moments():
    model, optimizer = run("fast", 4, 9)
    before = optimizer.exp_avg.clone()
    batch = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(5))
    optimizer.begin(9)
    torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
    optimizer.step(0.5, optimizer.gradient_rms(), [])
    optimizer.settle()
    changed = optimizer.exp_avg != before
    for name in optimizer.places:
        zeros = watched_zeros(optimizer, name)
        assert optimizer.parameters[name].flatten()[zeros].count_nonzero() == 0
        assert of(optimizer, name, changed)[~of(optimizer, name, optimizer.is_kept)].any(), name


def test_while_any_density_falls_all_is_trained_by_the_exact_method():
    (exact, _), (fast, optimizer) = run("exact", 1, 6), run("fast", 1, 6)  # the unembedding ends at 1/8, and so earlier
    assert not optimizer.places
    assert all(torch.equal(a, b) for a, b in zip(exact.parameters(), fast.parameters(), strict=True))
    names = {name for name, p in fast.named_parameters() if p.dim() == 2} - {"embed.weight"}
    assert run("fast", 1, 7)[1].places.keys() == names


def test_before_fast_from_all_is_trained_by_the_exact_method():
    # Three quarters of twelve steps: the ninth is the last that is exact, and chooses what is kept from then on.
    (exact, _), (fast, optimizer) = (run(mode, 1, 8, anneal_end=0, fast_from=0.75) for mode in ("exact", "fast"))
    assert not optimizer.places
    assert all(torch.equal(a, b) for a, b in zip(exact.parameters(), fast.parameters(), strict=True))
    assert run("fast", 1, 9, anneal_end=0, fast_from=0.75)[1].places


@pytest.mark.parametrize("tied", [False, True])
def test_the_embedding_is_trained_by_the_exact_method_throughout(tied):
    _, optimizer = run("fast", 4, 9, tied=tied)
    assert "embed.weight" not in optimizer.places
    assert all(
        moment.shape == optimizer.parameters["embed.weight"].shape for moment in optimizer.moments["embed.weight"]
    )


def test_memory_of_the_optimiser_follows_the_non_zeros_of_all_matrices_but_the_embedding():
    model, optimizer = run("fast", 4, 9)
    kept = sum(int(model.get_parameter(name).count_nonzero()) for name in optimizer.places)
    assert optimizer.exp_avg.shape == optimizer.exp_avg_sq.shape == (2 * kept,)
    assert all(model.get_parameter(name).dim() == 1 for name in optimizer.moments.keys() - {"embed.weight"})


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
        seen += float((gradient[kept_places(optimizer, name)] if name in optimizer.places else gradient).square().sum())
    n = sum(parameter.numel() for parameter in reference.parameters())
    rms = (optimizer.ratio * seen / n) ** 0.5

    optimizer.begin(9)
    torch.nn.functional.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
    torch.testing.assert_close(optimizer.gradient_rms(), rms, rtol=1e-4, atol=0)
    optimizer.step(0.02, rms, [])
    after, offset = weights_now(model, optimizer), 0
    for name, places in optimizer.places.items():
        m = moments["watched.exp_avg"][offset : offset + len(places)].clone()
        v = moments["watched.exp_avg_sq"][offset : offset + len(places)].clone()
        offset += len(places)
        m, v, w = step_of_adam(
            m, v, reference.get_parameter(name).grad.flatten()[places] / rms, before[name].flatten()[places]
        )
        kept = of(optimizer, name, optimizer.is_kept)
        torch.testing.assert_close(after[name].flatten()[places], w * kept, rtol=1e-4, atol=1e-5)
        assert int(torch.count_nonzero(after[name])) == int(kept.sum())
        torch.testing.assert_close(of(optimizer, name, optimizer.exp_avg), m, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(of(optimizer, name, optimizer.exp_avg_sq), v, rtol=1e-4, atol=1e-5)
    reference.load_state_dict(after, strict=False)
    optimizer.begin(10)  # no refresh: the sparse layers go on with the weights that the step has changed
    torch.testing.assert_close(model(batch[:, :-1]), reference(batch[:, :-1]), rtol=1e-4, atol=1e-5)


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
        float((g.flatten()[kept_places(optimizer, name)] if name in optimizer.places else g).square().sum())
        for name, g in gradients.items()
    )
    torch.testing.assert_close(optimizer.ratio, everything / seen, rtol=1e-4, atol=0)


def test_a_checkpoint_of_another_mode_is_refused_in_one_line():
    exact, fast = (run(mode, 4, 5)[1] for mode in ("exact", "fast"))
    with pytest.raises(UserError, match="train into another directory"):
        fast.load_state(exact.state(), 5)
    once_the_embedding, once_some = (run("fast", 4, 9)[1].state() for _ in range(2))
    once_the_embedding["watched.embed.weight"] = once_the_embedding["watched.unembed.weight"]
    del once_some["watched.unembed.weight"]
    for earlier in (once_the_embedding, once_some):
        with pytest.raises(UserError, match="earlier fast mode; train into another directory"):
            fast.load_state(earlier, 9)
