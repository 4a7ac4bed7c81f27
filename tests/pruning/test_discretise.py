from __future__ import annotations

import math

import pytest
import torch

from openwork.model import ModelConfig
from openwork.pruning.discretise import calibrate, clean_up, fewest
from openwork.pruning.gates import Gates, StepGate


def loss_needing(needed: set[int]):
    """A loss of 0 where all of `needed` are open, else 1."""
    return lambda numbers: 0.0 if needed <= set(numbers.tolist()) else 1.0


def test_bisection_finds_the_shortest_head_of_the_ranking():
    ranking = torch.tensor([5, 3, 8, 1, 0, 2])
    assert fewest(ranking, loss_needing({3, 1}), 0.5).tolist() == [5, 3, 8, 1]
    assert fewest(ranking, loss_needing(set()), 0.5).tolist() == []
    assert fewest(ranking, loss_needing({99}), 0.5) is None


@pytest.mark.parametrize("needed", [set(), {7}, {0, 19}, {3, 4, 5}, set(range(20))])
def test_clean_up_closes_all_that_is_not_needed(needed):
    assert set(clean_up(torch.arange(20), loss_needing(needed), 0.5).tolist()) == needed


def test_what_clean_up_leaves_is_locally_minimal_even_with_backups():
    def loss_of(numbers):  # 0 needs 1 or 2; 3 needs 4
        kept = set(numbers.tolist())
        return 0.0 if 0 in kept and kept & {1, 2} and (3 not in kept or 4 in kept) else 1.0

    left = clean_up(torch.arange(6), loss_of, 0.5)
    assert loss_of(left) == 0
    assert all(loss_of(left[left != gate]) == 1 for gate in left)


def test_calibration_finds_a_shift_and_does_not_run_off_with_the_scale():
    right = torch.tensor([[3.0, 1.0]]).expand(50, 2)  # answer A is favoured by 2 in both members
    scale, shift = calibrate(right)
    assert shift == pytest.approx(-2 * scale, rel=0.05)
    assert 1 < scale < 10
    noise = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))
    scale, _ = calibrate(noise)
    loss = torch.nn.functional.softplus(scale * noise * torch.tensor([-1.0, 1.0])).mean()
    assert float(loss) <= math.log(2) + 0.01


def test_q_and_k_share_their_gates_and_every_node_has_one():
    config = ModelConfig(n_layers=2, d_model=8, d_head=4, d_mlp=12, d_vocab=5, n_ctx=4)
    gates = Gates.of(config)
    assert gates.stretch["1.attn.q"] == gates.stretch["1.attn.k"]
    assert int(gates.nodes_per_gate().sum()) == 2 * (7 * 8 + 12)
    assert gates.n == 2 * (6 * 8 + 12)
    kept = gates.kept(torch.ones(gates.n, dtype=torch.bool))
    assert {site: len(index) for site, index in kept.items()}["0.mlp.post_act"] == 12


def test_a_closed_gate_gives_the_ablation_value_and_an_open_one_the_activation():
    config = ModelConfig(n_layers=1, d_model=4, d_head=4, d_vocab=5, n_ctx=4)
    gates = Gates.of(config)
    gate = torch.zeros(gates.n)
    gate[gates.stretch["0.attn.v"].start + 2] = 1
    values = {site: torch.full((16 if site.endswith("post_act") else 4,), 7.0) for site in gates.stretch}
    x = torch.arange(4.0)
    assert gates.edits(gate, values)["0.attn.v"](x).tolist() == [7, 7, 2, 7]


def test_the_step_gate_has_the_sigmoids_derivative():
    tau = torch.tensor([-0.5, 0.0, 0.5], requires_grad=True)
    gate = StepGate.apply(tau, 0.5)
    assert gate.tolist() == [0, 0, 1]
    gate.sum().backward()
    s = torch.sigmoid(tau.detach() / 0.5)
    torch.testing.assert_close(tau.grad, s * (1 - s) / 0.5)
