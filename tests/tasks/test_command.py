from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.tasks.samples import quotes, small_model, write
from typer.testing import CliRunner

from openwork import tasks
from openwork.cli import app
from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.models import save_model


def run(*arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["tasks", *arguments])
    if result.exception:
        raise result.exception
    return result.stdout


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, idioms_tokenizer: Tokenizer) -> str:
    path = tmp_path_factory.mktemp("model")
    save_model(small_model(idioms_tokenizer), path)
    return str(path)


def test_the_list_shows_every_task_and_the_users_own(tmp_path: Path) -> None:
    own = write(tmp_path / "own.jsonl", quotes())
    shown = run("--file", own, "--json", str(tmp_path / "list.json"))
    missing = [name for name in tasks.names() if f"{name}: {tasks.describe(name)}" not in " ".join(shown.split())]
    assert not missing
    assert max(map(len, shown.splitlines())) <= 80
    assert "get('name⟦')⟧" in shown
    rows = json.loads((tmp_path / "list.json").read_text())["tasks"]
    assert [row["task"] for row in rows] == [*tasks.names(), own]


def test_lint_says_that_there_is_no_fault_or_which(tmp_path: Path, model: str) -> None:
    good, bad = write(tmp_path / "good.jsonl", quotes()), write(tmp_path / "bad.jsonl", quotes()[:3] + quotes()[4:5])
    assert "no faults in 32" in " ".join(run(model, "--lint", good).split())
    with pytest.raises(UserError, match="1 of 2 in .*bad.jsonl have faults; mend them"):
        run(model, "--lint", bad, "--json", str(tmp_path / "lint.json"))
    rows = json.loads((tmp_path / "lint.json").read_text())["pairs"]
    assert [bool(row["fault"]) for row in rows] == [False, True]
    with pytest.raises(UserError, match="needs a MODEL"):
        run("--lint", good)
