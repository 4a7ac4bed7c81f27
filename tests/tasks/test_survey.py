from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.tasks.samples import small_model, write
from tests.tasks.test_files import PYTHON, member

from openwork import tasks
from openwork.corpus import Tokenizer
from openwork.tasks.survey import lint_task, list_tasks, try_tasks


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
    tried: list[str] = []
    for row in try_tasks(model, tasks.names(), n=8, report=tried.append):
        assert row["note"] == ""
        assert row["loss"] == pytest.approx(math.log(2), abs=1e-4)
        assert row["held-out loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert tuple(tried) == tasks.names()


def test_a_task_that_does_not_suit_says_so(poor_tokenizer: Tokenizer) -> None:
    notes = {row["task"]: row["note"] for row in try_tasks(small_model(poor_tokenizer), tasks.names(), n=4)}
    assert "does not suit this tokenizer" in notes["single_double_quote"]


def test_templates_that_are_left_out_are_counted(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    (tmp_path / "own.py").write_text(PYTHON.replace('templates=("', 'templates=("<a b|c> = $name1($name2<?>\\n", "'))
    (row,) = try_tasks(small_model(idioms_tokenizer), [str(tmp_path / "own.py")], n=4)
    assert row["note"] == "templates left out: 1" and row["loss"] > 0


def test_loss_and_accuracy_are_those_of_the_pairs(idioms_tokenizer: Tokenizer) -> None:
    model, task = small_model(idioms_tokenizer).requires_grad_(False), tasks.get("class_init", idioms_tokenizer)
    (row,) = try_tasks(model, ["class_init"], n=32)
    for split, prefix in (("validation", ""), ("held_out", "held-out ")):
        pairs = task.pairs(split, 32)
        differences = pairs.differences(model(pairs.flat))
        right = (differences[:, 0] > 0).sum() + (differences[:, 1] < 0).sum()
        assert row[f"{prefix}loss"] == pytest.approx(float(pairs.losses(differences)))
        assert row[f"{prefix}accuracy"] == pytest.approx(float(right) / 64)
    assert row["loss"] != row["held-out loss"]


def test_where_the_line_ends_the_end_is_shown(tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", [member("x = 1", "\n", ","), member("x = (1", ",", "\n")])
    (row,) = list_tasks([own])
    assert (row["member A"], row["member B"]) == ("x = 1⟦↵⟧", "x = (1⟦,⟧")


def test_linted_templates_say_their_split(tmp_path: Path, idioms_tokenizer: Tokenizer) -> None:
    (tmp_path / "own.py").write_text(PYTHON)
    rows = lint_task(str(tmp_path / "own.py"), idioms_tokenizer)
    assert [(row["split"], "assert" in row["where"]) for row in rows] == [
        ("train, validation", False),
        ("held_out", True),
    ]
