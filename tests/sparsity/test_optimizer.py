from __future__ import annotations

import pytest
import torch

from openwork.model import ModelConfig, Transformer
from openwork.sparsity.optimizer import make_adam, scale_to_rms_one_


def test_gradients_are_scaled_to_a_common_rms_of_one():
    gradients = [torch.tensor([3.0, 0.0]), torch.tensor([[0.0, 4.0]])]
    assert scale_to_rms_one_(gradients) == pytest.approx(2.5)  # sqrt((9 + 16) / 4)
    assert torch.cat([g.flatten() for g in gradients]).tolist() == pytest.approx([1.2, 0, 0, 1.6])


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_a_gradient_without_a_scale_is_left_as_it_is(bad):
    gradients = [torch.full((3,), bad)]
    rms = scale_to_rms_one_(gradients)
    assert rms == bad or rms != rms
    assert gradients[0].isnan().all() if bad != bad else bool((gradients[0] == bad).all())


def test_one_step_is_adam_with_decay_on_matrices_alone():
    model = Transformer(ModelConfig(n_layers=1, d_model=8, d_head=4, d_vocab=9, n_ctx=4, bigram="learned"))
    with torch.no_grad():
        model.bigram.fill_(2.0)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    adam = make_adam(model.named_parameters(), (0.9, 0.95), 0.1, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.3)
    for group in adam.param_groups:
        group["lr"] = 0.01
    adam.step()
    move = 0.01 * 0.3 / (0.3 + 0.1)  # both moments are unbiased after one step: m = g, sqrt(v) = |g|
    for name, parameter in model.named_parameters():
        decays = parameter.dim() == 2 and name != "bigram"
        torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.01 * 0.5 * decays) - move)
