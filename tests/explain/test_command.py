"""`openwork explain` from files: the text, the program and the numbers."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from openwork import cli, tasks
from openwork.errors import UserError
from openwork.models import load_model, save_model
from tests.viewer.toys import ToyTask, toy_circuit, toy_model


def command(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["openwork", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.fixture(scope="module")
def files(tiny_corpus, tmp_path_factory):
    """A model, a task of the user's and a circuit of it, saved."""
    directory = tmp_path_factory.mktemp("explained")
    lines = []
    for i in range(32):
        for mark, other in ("'\"", "\"'"):
            prompt = f"x{i} = {mark}one"
            lines.append(json.dumps({"prompt": prompt, "right": mark, "wrong": other}))
    (directory / "quotes.jsonl").write_text("\n".join(lines))
    save_model(toy_model(tiny_corpus), directory / "model")
    model = load_model(directory / "model")
    task = tasks.get(str(directory / "quotes.jsonl"), model.tokenizer)
    circuit = replace(toy_circuit(model, ToyTask(tiny_corpus)), task=task.name, task_hash=task.hash, n_pairs=8)
    circuit.save(directory / "quotes.circuit")
    return directory


def options(files: Path):
    return [files / "quotes.circuit", "--model", files / "model", "--task", files / "quotes.jsonl"]


def test_it_writes_text_program_and_numbers(files, tiny_corpus, tmp_path, monkeypatch, capsys):
    out, program, numbers = (tmp_path / name for name in ("circuit.txt", "circuit.py", "circuit.json"))
    corpus = tmp_path / "none"
    asked = [*options(files), "--out", out, "--program", program, "--json", numbers]
    assert command(monkeypatch, "explain", *asked) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(out.read_text()) and "program: " in printed
    assert "Task: in the circuit" in printed.replace("\n", " ")
    assert "def difference(tokens, a, b):" in program.read_text()
    told = json.loads(numbers.read_text())
    assert told["program"]["pairs"] == 8 and len(told["nodes"]) == 32
    assert command(monkeypatch, "explain", *options(files), "--corpus", corpus) == 2
    assert str(corpus) in capsys.readouterr().err


def test_the_corpus_is_watched_and_must_be_the_models_own(files, tiny_corpus, monkeypatch, capsys):
    assert command(monkeypatch, "explain", *options(files), "--corpus", tiny_corpus.path) == 0
    assert "\n      corpus: " in capsys.readouterr().out


def test_a_program_that_cannot_be_is_told_before_the_work(files, tmp_path, monkeypatch, capsys):
    def refuse(*asked):
        raise UserError("no program; leave --program out")

    monkeypatch.setattr("openwork.explain.see", pytest.fail)
    monkeypatch.setattr("openwork.explain.write_program", refuse)
    out, program = tmp_path / "circuit.txt", tmp_path / "circuit.py"
    assert command(monkeypatch, "explain", *options(files), "--out", out, "--program", program) == 2
    assert "leave --program out" in capsys.readouterr().err and not list(tmp_path.iterdir())
