"""The command line as the installed command runs it, and a place with all that it makes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.cli.spoil import QUICK, TINY

from openwork import cli
from openwork.models import load_model


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str

    def line(self) -> str:
        """The one line that a mistake ends in."""
        assert self.status == 2, self
        assert self.err.startswith("openwork: ") and self.err.count("\n") == 1, self.err
        return self.err


@pytest.fixture
def openwork(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command line on its arguments."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["openwork", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capfd.readouterr()
        return Ended(int(ended.value.code or 0), out, err)

    return run


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with corpus/, model/, a circuit and a card, made by the commands themselves."""
    place = tmp_path_factory.mktemp("made")
    for arguments in (
        ("corpus", "idioms", "--out", place / "corpus", "--d-vocab", 512, "--max-tokens", 20_000),
        ("train", place / "corpus", "--out", place / "model", *TINY),
        ("prune", place / "model", "single_double_quote", "--out", place / "q.circuit", *QUICK),
    ):
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["openwork", *map(str, arguments)])
            cli.main()
        assert not ended.value.code
    from openwork import tasks, verify
    from openwork.pruning import load_circuit

    model = load_model(place / "model")
    circuit = load_circuit(place / "q.circuit", model)
    verify(circuit, tasks.get(circuit.task, model.tokenizer), n_random=1, n_pairs=2).save(place / "card.json")
    return place
