from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openwork.tasks import Pairs

A, B = 3, 4


def two_pairs() -> Pairs:
    """Two pairs: prompts of 2 and of 1 tokens behind end-of-text (0), answers 3 and 4, in a vocabulary of 5."""
    return Pairs(
        tokens=torch.tensor([[[0, 1, 2], [0, 2, 2]], [[0, 1, 0], [0, 1, 0]]]),
        last=torch.tensor([2, 1]),
        right=torch.tensor([[A, B], [A, B]]),
        wrong=torch.tensor([[B, A], [B, A]]),
        prompts=(("ab", "bb"), ("a", "a")),
        templates=("x", "x"),
    )


def logits_of(differences: list[list[float]]) -> torch.Tensor:
    """Logits (4, 3, 5) whose answers at `last` differ so: A gets d + 0.5, B 0.5; elsewhere misleading numbers."""
    logits = torch.full((4, 3, 5), 7.0)
    logits[..., B] = -50.0
    for row, (pair, last) in enumerate(((0, 2), (0, 2), (1, 1), (1, 1))):
        logits[row, last, A] = differences[pair][row % 2] + 0.5
        logits[row, last, B] = 0.5
    return logits


def test_differences_are_a_minus_b_where_the_answer_is_due() -> None:
    differences = [[2.0, -1.0], [0.25, 3.0]]
    assert two_pairs().differences(logits_of(differences)).tolist() == differences
    assert two_pairs().at_answer(logits_of(differences)).shape == (4, 5)


def test_loss_by_hand() -> None:
    pairs = two_pairs()
    # members A 2 and 0.25, members B -1 and 3: (softplus(-2) + softplus(-1) + softplus(-0.25) + softplus(3)) / 4
    by_hand = (
        math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log1p(math.exp(-0.25)) + math.log1p(math.exp(3))
    ) / 4
    logits = logits_of([[2.0, -1.0], [0.25, 3.0]])
    assert pairs.loss(logits).item() == pytest.approx(by_hand)
    assert pairs.accuracy(pairs.differences(logits)) == 0.75
    assert pairs.loss(torch.zeros(4, 3, 5)).item() == pytest.approx(math.log(2))


def test_loss_is_the_mean_negative_log_probability_of_the_right_answer() -> None:
    pairs, logits = two_pairs(), torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    total = 0.0
    for row in range(4):
        due = logits[row, pairs.last[row // 2]]
        right, wrong = pairs.right[row // 2, row % 2], pairs.wrong[row // 2, row % 2]
        total -= torch.stack([due[right], due[wrong]]).log_softmax(0)[0].item()
    assert pairs.loss(logits).item() == pytest.approx(total / 4)


@given(st.floats(-3, 3), st.floats(-3, 3), st.floats(0.1, 4), st.floats(-2, 2))
def test_calibration_acts_on_the_signed_difference(a: float, b: float, scale: float, shift: float) -> None:
    pairs = two_pairs()
    calibrated = pairs.loss(logits_of([[a, b], [a, b]]), scale, shift).item()
    d_a, d_b = scale * a + shift, scale * b + shift
    assert calibrated == pytest.approx((math.log1p(math.exp(-d_a)) + math.log1p(math.exp(d_b))) / 2, abs=1e-5)
    assert pairs.losses(torch.tensor([[d_a, d_b]])).item() == pytest.approx(calibrated, abs=1e-5)


def test_a_shift_helps_one_answer_and_harms_the_other() -> None:
    pairs, biased = two_pairs(), logits_of([[3.0, 1.0], [3.0, 1.0]])
    assert pairs.loss(biased, shift=-2.0) < pairs.loss(biased)
    assert pairs.loss(biased, shift=2.0) > pairs.loss(biased)


def test_gradient_reaches_only_the_answers() -> None:
    logits = logits_of([[0.0, 0.0], [0.0, 0.0]]).requires_grad_()
    two_pairs().loss(logits).backward()
    assert logits.grad is not None
    touched = logits.grad.nonzero().tolist()
    assert touched == [[row, last, token] for row, last in ((0, 2), (1, 2), (2, 1), (3, 1)) for token in (A, B)]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_parts_are_the_whole_in_turn(n: int) -> None:
    pairs = two_pairs()
    parts = pairs.split(n)
    assert [len(part) for part in parts] == {1: [1, 1], 2: [2], 3: [2]}[n]
    assert torch.cat([part.flat for part in parts]).equal(pairs.flat)
    for name in ("last", "right", "wrong"):
        assert torch.cat([getattr(part, name) for part in parts]).equal(getattr(pairs, name))
    for name in ("prompts", "templates"):
        assert sum((getattr(part, name) for part in parts), ()) == getattr(pairs, name)


def test_each_pair_stands_once_and_others_are_left_out_unless_there_are_no_more() -> None:
    pairs = two_pairs()
    many = pairs.rows([1, 0, 1, 0])
    assert many.prompts == pairs.prompts[::-1] * 2
    assert many.distinct().prompts == pairs.prompts[::-1]
    for but, left in ((pairs.rows([1]), pairs.rows([0])), (pairs, pairs.rows([1, 0]))):
        found = many.distinct(but=but)
        assert found.prompts == left.prompts and found.tokens.equal(left.tokens) and found.right.equal(left.right)
