"""What both members begin with stands once, what comes after the answer's position does not stand at all."""

from __future__ import annotations

import torch
from tests.pruning.planted import PlantedTask

from openwork.pruning.packing import Packing
from openwork.tasks import Pairs

TOKENS = torch.tensor([[[0, 5, 6, 7, 9], [0, 5, 8, 7, 9]], [[0, 1, 2, 0, 0], [0, 3, 2, 0, 0]]])
PAIRS = Pairs(TOKENS, torch.tensor([3, 2]), torch.zeros(2, 2).long(), torch.zeros(2, 2).long(), (("", ""),) * 2)


def test_each_token_that_counts_stands_once():
    packing = Packing.of(PAIRS)
    assert PAIRS.flat.flatten()[packing.origin].tolist() == [0, 5, 6, 7, 8, 7, 0, 1, 2, 3, 2]
    assert packing.position.tolist() == [0, 1, 2, 3, 2, 3, 0, 1, 2, 1, 2]
    assert packing.place.tolist() == [[0, 1, 2, 3, 3], [0, 1, 4, 5, 5], [6, 7, 8, 8, 8], [6, 9, 10, 10, 10]]


def test_unpacked_every_position_that_counts_has_its_own_token():
    packing = Packing.of(PAIRS)
    token = PAIRS.flat.flatten()[packing.origin][None, :, None]
    counts = torch.arange(TOKENS.shape[-1]) <= packing.last[:, None]
    assert torch.equal(packing.unpacked(token)[0, ..., 0][counts], PAIRS.flat[counts])
    assert torch.equal(packing.at_last(token).flatten(), torch.tensor([7, 7, 2, 2]))
    assert torch.equal(packing.packed(packing.unpacked(token)), token)


def test_some_pairs_are_packed_as_if_there_were_no_others():
    pairs = PlantedTask().pairs("train", 6)
    which = torch.tensor([4, 1, 4])
    alone = Packing.of(Pairs(pairs.tokens[which], pairs.last[which], pairs.right[which], pairs.wrong[which], ()))
    some, tokens = Packing.of(pairs).at(which)
    for name in ("origin", "place", "last", "ends"):
        assert torch.equal(getattr(some, name), getattr(alone, name)), name
    assert torch.equal(
        pairs.flat.flatten()[Packing.of(pairs).origin[tokens]], pairs.tokens[which].flatten()[alone.origin]
    )
