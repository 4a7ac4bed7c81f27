from __future__ import annotations

import pytest
import torch

from openwork.model import ModelConfig, Transformer
from openwork.sparsity import Adam, AdamConfig


def two_weights(first: list[float], second: list[list[float]]) -> Adam:
    """Adam over a vector and a matrix with these gradients."""
    named = [("bias", torch.nn.Parameter(torch.ones(2))), ("weight", torch.nn.Parameter(torch.ones(1, 2)))]
    for (_, parameter), gradient in zip(named, (first, second), strict=True):
        parameter.grad = torch.tensor(gradient)
    return Adam(named, AdamConfig())


def test_gradients_count_as_if_their_common_rms_were_one():
    adam = two_weights([3.0, 0.0], [[0.0, 4.0]])
    assert adam.gradient_rms() == pytest.approx(2.5)  # sqrt((9 + 16) / 4)
    adam.step(0.5, 2.5, [])
    # The gradients become 1.2 and 1.6; m = g and sqrt(v) = |g| after one step; the matrix decays by 0.5 * 0.1 first.
    assert adam.parameters["bias"].tolist() == pytest.approx([1 - 0.5 * 1.2 / 1.3, 1])
    assert adam.parameters["weight"].tolist()[0] == pytest.approx([0.95, 0.95 - 0.5 * 1.6 / 1.7])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_shows_in_its_rms(bad):
    rms = two_weights([bad, 1.0], [[1.0, 1.0]]).gradient_rms()
    assert rms == bad or rms != rms


def test_a_gradient_of_zero_moves_nothing_but_what_decays():
    adam = two_weights([0.0, 0.0], [[0.0, 0.0]])
    adam.step(0.5, adam.gradient_rms(), [])
    assert adam.parameters["bias"].tolist() == [1, 1] and adam.parameters["weight"].tolist()[0] == pytest.approx(
        [0.95] * 2
    )


def test_steps_are_those_of_adamw_with_decay_on_matrices_alone():
    model = Transformer(ModelConfig(n_layers=1, d_model=8, d_head=4, d_vocab=9, n_ctx=4, bigram="learned"))
    with torch.no_grad():
        model.bigram.fill_(2.0)
    theirs = {name: torch.nn.Parameter(p.detach().clone()) for name, p in model.named_parameters()}
    decayed = [p for name, p in theirs.items() if p.dim() == 2 and name != "bigram"]
    others = [p for name, p in theirs.items() if p.dim() != 2 or name == "bigram"]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, lr=0.01, betas=(0.8, 0.9), eps=0.1, weight_decay=0.5)
    adam = Adam(model.named_parameters(), AdamConfig((0.8, 0.9), 0.1, 0.5))
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        for parameter in model.parameters():
            parameter.grad = torch.randn(parameter.shape, generator=random)
        rms = adam.gradient_rms()
        for name, parameter in model.named_parameters():
            theirs[name].grad = parameter.grad / rms
        adam.step(0.01, rms, [])
        reference.step()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter, theirs[name])
