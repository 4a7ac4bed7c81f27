from __future__ import annotations

import math

import pytest
import torch
from tests.tasks.samples import small_model

from openwork import tasks
from openwork.corpus import Tokenizer
from openwork.tasks.survey import list_tasks, try_tasks


def test_every_task_is_listed_with_a_pair() -> None:
    rows = list_tasks(tasks.names())
    assert [row["task"] for row in rows] == list(tasks.names())
    for row in rows:
        assert row["member A"] != row["member B"]
        assert row["asks to"]


def test_a_model_that_knows_nothing_guesses(idioms_tokenizer: Tokenizer) -> None:
    model = small_model(idioms_tokenizer)
    with torch.no_grad():
        model.unembed.weight.zero_()
    for row in try_tasks(model, tasks.names(), n=8):
        assert row["note"] == ""
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert row["held-out loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_a_task_that_does_not_suit_says_so(poor_tokenizer: Tokenizer) -> None:
    notes = {row["task"]: row["note"] for row in try_tasks(small_model(poor_tokenizer), tasks.names(), n=4)}
    assert "does not suit this tokenizer" in notes["single_double_quote"]
