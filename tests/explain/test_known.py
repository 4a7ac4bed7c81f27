from __future__ import annotations

import pytest
import torch

from openwork.explain.known import Contest, after_contest, kept_largest, tokens_of
from openwork.tasks import Pairs
from tests.pruning.planted import PlantedTask


@pytest.mark.parametrize("k", [1, 2, 3, 5, 9, 10])
@pytest.mark.parametrize("n", [1, 2, 4])
def test_a_contest_keeps_what_abs_topk_of_all_keeps(n, k):
    """Competitors and constants together: every competitor, and every constant if one more may compete."""
    draw = torch.Generator().manual_seed(10 * n + k)
    for _ in range(40):
        varying, constants = torch.randn(n, generator=draw), torch.randn(10 - n, generator=draw)
        whole = kept_largest(torch.cat([varying, constants]), k) != 0
        for competing, more in ((varying, 0), (torch.cat([varying, constants]), 1)):
            contest = Contest.of(n + more, constants, k)
            least = torch.zeros(())
            if contest is not None:
                least = torch.cat([varying.abs(), contest.rivals]).sort(descending=True).values[contest.places - 1]
            assert torch.equal(competing.abs() >= least, whole[: len(competing)])


def test_a_constant_is_kept_or_lost_beforehand_only_if_no_competitor_can_change_it():
    constants, outside = torch.tensor([5.0, 0.0, 3.0, 2.0, 1.0]), torch.tensor([True, False, True, True, True])
    # of 3 places one competitor may take one: 5 and 3 keep theirs, 2 may lose it, 1 never has one
    assert [after_contest(constants, outside, 3, i) for i in (0, 2, 3, 4)] == [5.0, 3.0, None, 0.0]


def test_the_largest_keep_their_place_and_the_first_of_equals():
    assert kept_largest(torch.tensor([[1.0, -3.0, 1.0, 0.5]]), 2).tolist() == [[1.0, -3.0, 0.0, 0.0]]


def test_tokens_are_those_of_the_prompts_without_padding():
    pairs = PlantedTask().pairs("train", 2)
    tokens = torch.tensor([[[0, 1, 9], [0, 2, 9]]])
    some = Pairs(tokens, torch.tensor([1]), pairs.right[:1], pairs.wrong[:1], pairs.prompts[:1])
    assert tokens_of([some]).tolist() == [0, 1, 2]
