"""How a command is called and ends: status 2 and one line on stderr for a mistake, no traceback, nothing lost."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch
from rich.console import Console
from tests.cli.spoil import QUICK, TINY, no_space

from openwork.artifacts import load_tensors, save_tensors
from openwork.cli import output
from openwork.cli.output import print_rows, write_json
from openwork.corpus import Tokenizer
from openwork.models import load_model
from openwork.progress import pruning_progress
from openwork.pruning import load_circuit


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("bench",), "Missing command; see openwork bench --help"),
        (("nosuch",), "No such command 'nosuch'; see openwork --help"),
        (("corpus",), "Missing argument 'source'; see openwork corpus --help"),
        (("tasks", "--nosuch"), "No such option: --nosuch"),
        (("prune", "m", "t", "--out", "c", "--seeds", "0"), "'--seeds'"),
        (("prune", "m", "t", "--out", "c", "--seed", "-1"), "'--seed'"),
        (("prune", "m", "t", "--out", "c", "--seed", "many"), "'--seed'"),
        (("bench", "train", "--rounds", "0"), "'--rounds'"),
        (("bench", "train", "--density", "0"), "density is 0.0; it must lie in (0, 1]"),
        (("bench", "train", "--density", "1/0"), "--density is '1/0'"),
        (("bench", "train", "--d-model", "7"), "not divisible by model.d_head 16"),
        (("corpus", "idioms", "--max-tokens", "9", "--out", ""), "the argument '' is empty"),
        (("tasks", "m\udcff"), "the argument 'm\\udcff' is not UTF-8"),
        (("demo", "--pretrained", "--seed", "3"), "leave --seed 3 out"),
        (("corpus", "idioms", "--out", "c", "--d-vocab", "300", "--tokenizer", "t.json"), "leave d_vocab 300 out"),
        (("prune", "m", "t", "--out", "c", "target=0.1", "--targets", "0.3,0.5"), "target=0.1 and --targets 0.3,0.5"),
        (("tasks", "--json="), "the argument '--json=' is empty"),
        (("tasks", "--json", "/"), "the file / is a directory"),
    ],
)
def test_a_command_line_that_makes_no_sense(openwork, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in openwork(*arguments).line()
    assert not list(tmp_path.iterdir())


def test_the_version_is_that_of_the_package(openwork):
    ended = openwork("--version")
    assert (ended.status, ended.err) == (
        0,
        "",
    ) and ended.out == f"openwork {version('openwork')}, torch {torch.__version__}\n"


def test_tasks_are_listed_and_written_as_json(openwork, tmp_path):
    ended = openwork("tasks", "--json", tmp_path / "tasks.json")
    assert ended.status == 0 and ended.err == ""
    names = {row["task"] for row in json.loads((tmp_path / "tasks.json").read_text())["tasks"]}
    assert "single_double_quote" in names and "single_double" in ended.out


def test_a_task_too_long_for_the_model_has_a_note_beside_the_others(openwork, made, tmp_path):
    assert openwork("tasks", made / "model", "--json", tmp_path / "tasks.json").status == 0
    rows = json.loads((tmp_path / "tasks.json").read_text())["tasks"]
    assert any("more than the model's context" in row["note"] for row in rows)
    assert any(row["note"] == "" and row["loss"] > 0 for row in rows)


def test_a_task_of_ones_own_that_is_not_there_is_no_row_among_the_others(openwork, made, tmp_path):
    asked = openwork("tasks", made / "model", "--file", tmp_path / "mine.py", "--json", tmp_path / "tasks.json")
    assert "mine.py" in asked.line() and not (tmp_path / "tasks.json").exists()


def test_a_file_of_tasks_does_not_command_the_terminal(openwork, tmp_path):
    lines = [{"prompt": f"\x1b[31m{x}", "right": x, "wrong": y} for x, y in ("ab", "ba")]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = openwork("tasks", "--file", tmp_path / "mine.jsonl")
    assert ended.status == 0 and "\x1b" not in ended.out and r"\x1b[31ma" in ended.out


def test_a_model_is_not_written_into_a_corpus(openwork, made):
    before = sorted(path.name for path in (made / "corpus").iterdir())
    assert "is given twice" in openwork("train", made / "corpus", "--out", made / "corpus", *TINY).line()
    assert sorted(path.name for path in (made / "corpus").iterdir()) == before


def test_another_model_or_readme_is_not_trained_over(openwork, made, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    assert "has a README.md" in openwork("train", made / "corpus", "--out", tmp_path, *TINY).line()
    shutil.copytree(made / "model", tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / "checkpoints")
    assert "has a config.json" in openwork("train", made / "corpus", "--out", tmp_path / "model", *TINY).line()
    assert (tmp_path / "README.md").read_text() == "mine" and load_model(tmp_path / "model").hash


def test_brackets_in_a_path_are_printed_as_they_are(openwork, made, tmp_path):
    (tmp_path / "[red]a[" / "[").mkdir(parents=True)
    pairs = [{"prompt": f"x{i} = {a}ab", "right": a, "wrong": b} for i in range(32) for a, b in ("'\"", "\"'")]
    (own := tmp_path / "[red]a[" / "[/y].jsonl").write_text("\n".join(map(json.dumps, pairs)))
    ended = openwork("tasks", made / "model", "--file", own, "--json", tmp_path / "[red]a[" / "[/x].json")
    assert ended.status == 0 and (tmp_path / "[red]a[" / "[/x].json").exists(), ended
    with pruning_progress(Console(file=(shown := io.StringIO()), force_terminal=True, width=200)) as report:
        report({"phase": "try [/y]"})
    assert "try [/y]" in shown.getvalue()
    output.print_table("[/red]", {"[bold]": "[/x]"})
    output.print_rows("[/x]", [{"task": "[/y]"}])
    output.print_pairs([{"task": "[/a]", "asks to": "[/b]", "member A": "[/c]", "member B": "[bold]"}])


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error():
    for reader in ("true", "head -1"):
        command = f"{sys.executable} -m openwork tasks | {reader}"
        assert subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=True).stderr == b""


@pytest.mark.slow
def test_a_reader_that_goes_away_takes_no_file_with_it(made, tmp_path):
    explain = f"explain {made}/q.circuit --model {made}/model --json {tmp_path}/explain.json"
    for name, command in {"explain": explain, "models": f"models --json {tmp_path}/models.json"}.items():
        shell = f"({sys.executable} -m openwork {command}; echo $? > {tmp_path}/status) | true"
        assert subprocess.run(["sh", "-c", shell], capture_output=True, timeout=60, check=True).stderr == b""
        assert json.loads((tmp_path / f"{name}.json").read_text())
        assert (tmp_path / "status").read_text() == "0\n"


@pytest.mark.slow
def test_without_a_stdout_and_with_one_that_knows_few_letters(tmp_path):
    for shell in (">&-", "| cat"):
        command = f"PYTHONIOENCODING=ascii {sys.executable} -m openwork tasks {shell}"
        assert subprocess.run(["sh", "-c", command], capture_output=True, timeout=60, check=True).stderr == b""


def test_json_has_no_number_that_json_lacks(tmp_path):
    write_json(tmp_path / "x.json", {"a": float("inf"), "b": [float("nan"), 0.5], "c": {"d": 1}})
    assert json.loads((tmp_path / "x.json").read_text()) == {"a": None, "b": [None, 0.5], "c": {"d": 1}}


def test_a_survey_of_tasks_fits_80_characters(monkeypatch, capsys):
    monkeypatch.setattr(output, "console", Console(width=80))
    row = {"loss": 0.00081654, "accuracy": 1.0, "held-out loss": 0.0, "held-out accuracy": 0.97852, "note": ""}
    print_rows("tasks", [{"task": "set_or_string_fixedvarname", **row}])
    *_, line, _ = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    assert cells == ["set_or_string_fixedvarname", "0.000817", "1", "0", "0.9785"]


def test_ctrl_c_is_status_130_and_one_line(openwork, monkeypatch):
    def interrupted(*arguments: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("openwork.tasks.survey.list_tasks", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        ended = openwork("tasks")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (ended.status, ended.err) == (130, "openwork: stopped\n")


def test_a_place_that_cannot_be_written_is_told_before_the_work(openwork, made, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    model, circuit, corpus = made / "model", made / "q.circuit", made / "corpus"
    monkeypatch.setattr("openwork.pruning.search.prune", pytest.fail)
    prune = ("prune", model, "single_double_quote")
    for arguments in (
        ("tasks", "--json", tmp_path),
        ("tasks", "--json", tmp_path / "file" / "x.json"),
        (*prune, "--out", tmp_path),
        (*prune, "--out", tmp_path / "file" / "x"),
        ("verify", circuit, "--model", model, "--out", tmp_path),
        ("view", circuit, "--model", model, "--corpus", corpus, "--out", tmp_path),
        ("train", corpus, "--out", tmp_path / "file"),
        ("demo", "--out", tmp_path / "file"),
        ("corpus", "idioms", "--max-tokens", 100, "--out", tmp_path / "file"),
    ):
        assert str(tmp_path) in openwork(*arguments).line()
    assert (tmp_path / "file").read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_what_is_read_is_not_written_over(openwork, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("q.circuit", "card.json"):
        shutil.copy(made / name, tmp_path)
    (tmp_path / "quotes.jsonl").write_text("mine")
    explain = ("explain", "q.circuit", "--model", made / "model")
    for arguments in (
        (*explain, "--out", "q.circuit"),
        (*explain, "--program", tmp_path / "q.circuit"),
        ("explain", "--program", "./q.circuit", *explain[1:]),
        (*explain, "--out", "new", "--program", "new"),
        ("view", "q.circuit", *explain[2:], "--corpus", made / "corpus", "--card", "card.json", "--out", "card.json"),
        ("prune", made / "model", "quotes.jsonl", "--out", "quotes.jsonl"),
        ("export", "graph", "q.circuit", "q.circuit", "--model", made / "model"),
        ("import", "gpt2", tmp_path, "--out", "."),
    ):
        assert "is given twice" in openwork(*arguments).line()
    (tmp_path / "text.jsonl").write_text('{"text": "x"}')
    (tmp_path / "settings.toml").write_text("seed = 1")
    shutil.copytree(made / "model", "model")
    shutil.copytree(made / "corpus", "corpus")
    for arguments in (
        ("corpus", "text.jsonl#text", "--out", "new", "--json", "text.jsonl"),
        ("corpus", "idioms", "--out", "new", "--tokenizer", "model/tokenizer.json", "--json", "model/tokenizer.json"),
        ("train", "corpus", "--out", "new", "--config", "settings.toml", "--json", "settings.toml"),
        ("tasks", "model", "--lint", "quotes.jsonl", "--json", "quotes.jsonl"),
        ("tasks", "--file", "quotes.jsonl", "--json", "quotes.jsonl"),
    ):
        assert "is given twice" in openwork(*arguments).line()
    for arguments in (
        ("verify", "q.circuit", "--model", "model", "--out", "model/config.json"),
        ("explain", "q.circuit", "--json", "model/weights.safetensors", "--model", "model"),
        ("train", "corpus", "--out", "new", "--json", "corpus/manifest.json"),
    ):
        assert "which is read" in openwork(*arguments).line()
    prune = ("prune", "model", "single_double_quote", "--out", "new.circuit", "--targets")
    for arguments in (
        ("corpus", "text.jsonl#text", "--out", "new", "--json", "new/manifest.json"),
        ("train", "corpus", "--json", "new/deep/numbers.json", "--out", "new"),
    ):
        assert "new, which this command writes" in openwork(*arguments).line()
    for arguments in (
        (*prune, "5,6", "--json", "new-5.circuit"),
        (*prune, "5,6", "--json", "new.png"),
        (*prune, "5,5.0000001"),
    ):
        assert "is given twice" in openwork(*arguments).line()
    (tmp_path / "new-6.circuit").mkdir()
    assert "new-6.circuit is a directory" in openwork(*prune, "5,6").line()
    (tmp_path / "new-6.circuit").rmdir()
    assert not list(tmp_path.glob("new*"))
    for place in ("model", "corpus"):
        for file in (made / place).iterdir():
            assert file.is_dir() or file.read_bytes() == (tmp_path / place / file.name).read_bytes()
        shutil.rmtree(place)
    for name in ("text.jsonl", "settings.toml"):
        (tmp_path / name).unlink()
    assert (tmp_path / "q.circuit").read_bytes() == (made / "q.circuit").read_bytes()
    assert (tmp_path / "quotes.jsonl").read_text() == "mine" and len(list(tmp_path.iterdir())) == 3
    prune = ("prune", made / "model", "single_double_quote", "--out", "single_double_quote", *QUICK)
    assert openwork(*prune).status == openwork(*prune).status == 0  # a task's name is no path


def test_a_circuit_that_lies_with_its_model_is_known_by_its_name_or_its_place(openwork, made, tmp_path):
    (lies := tmp_path / "model" / "circuits").mkdir(parents=True)
    shutil.copytree(made / "model", tmp_path / "model", dirs_exist_ok=True)
    shutil.copy(made / "q.circuit", lies)
    by_name = ("explain", "q", "--model", tmp_path / "model")
    told = openwork("explain", made / "q.circuit", "--model", made / "model").out
    assert "THE ANSWER" in told
    assert openwork(*by_name).out == openwork("explain", lies / "q.circuit").out == told
    assert openwork("export", "graph", lies / "q.circuit", tmp_path / "q.csv").status == 0

    assert "has no circuit p; it has q" in openwork("explain", "p", *by_name[2:]).line()
    assert "p.circuit" in openwork("explain", lies / "p.circuit", *by_name[2:]).line()
    (tmp_path / "circuits").mkdir()
    shutil.copy(made / "q.circuit", tmp_path / "circuits")  # of no model
    for path in (made / "q.circuit", lies / "p.circuit", tmp_path / "circuits" / "q.circuit", "q", "/"):
        assert f"{path} lies in no model's circuits, so say with --model" in openwork("explain", path).line()
    assert "is given twice" in openwork(*by_name, "--out", lies / "q.circuit").line()
    assert (lies / "q.circuit").read_bytes() == (made / "q.circuit").read_bytes()


def test_prune_reports_the_circuit_that_it_wrote(openwork, made, tmp_path):
    out, report = tmp_path / "q.circuit", tmp_path / "q.json"
    ended = openwork("prune", made / "model", "single_double_quote", "--out", out, *QUICK, "--json", report)
    circuit, told = load_circuit(out, load_model(made / "model")), json.loads(report.read_text())
    assert (told["nodes"], told["edges"]) == (len(circuit.nodes), len(circuit.edges))
    assert (told["loss_circuit"], told["calibration_scale"]) == (circuit.losses["circuit"], circuit.scale)
    assert "calibration scale" in ended.out


@pytest.mark.slow
def test_verify_says_on_which_templates_a_circuit_fails(openwork, tmp_path):
    verify = ("verify", "with_as", "--model", "reference-sparse", "--out", tmp_path / "card.json")
    printed = openwork(*verify).out
    checks = {check["name"]: check for check in json.loads((tmp_path / "card.json").read_text())["checks"]}
    for name, check in checks.items():
        assert (f"{name}: where the loss is greatest" in printed) == (not check["passed"])
    worst = checks["held-out templates"]["detail"]["templates"][0]
    assert not checks["held-out templates"]["passed"] and f"{worst['circuit']:.4g}" in printed
    assert worst["circuit"] > 1 > 0.1 > worst["model"]  # another `with` before the deciding line


def test_baselines_are_of_every_target(openwork, made, tmp_path):
    prune = ("prune", made / "model", "single_double_quote", "--out", tmp_path / "q.circuit", *QUICK)
    ended = openwork(*prune, "--targets", "3,2", "--baselines", "--json", tmp_path / "q.json")
    assert ended.status == 0 and "a target of 2 nats asks for nothing: a coin has 0.693" in ended.out
    rows = json.loads((tmp_path / "q.json").read_text())["baselines"]
    assert [row["target"] for row in rows] == [2, 2, 2, 3, 3, 3]
    assert (tmp_path / "q-2.circuit").is_file() and (tmp_path / "q-3.circuit").is_file()


def test_means_are_not_taken_from_a_corpus_of_another_tokenizer(openwork, made, tmp_path):
    shutil.copytree(made / "model", tmp_path / "m")
    (tmp_path / "m" / "means.safetensors").unlink()
    other = ("--tokenizer", tmp_path / "t.json", "--max-tokens", 20_000)
    Tokenizer.train(["print('a')\n" * 50], 300).save(tmp_path / "t.json")
    assert openwork("corpus", "idioms", "--out", tmp_path / "c", *other).status == 0
    prune = ("prune", tmp_path / "m", "single_double_quote", "--out", tmp_path / "q.circuit", *QUICK, "--corpus")
    assert "give the model's own corpus" in openwork(*prune, tmp_path / "c").line()
    assert not (tmp_path / "m" / "means.safetensors").exists()
    assert openwork(*prune, made / "corpus").status == 0 and (tmp_path / "m" / "means.safetensors").exists()


def test_a_file_that_a_circuit_names_is_not_run(openwork, made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.py").write_text("import pathlib; pathlib.Path('it-ran').touch()")
    tensors, header = load_tensors(made / "q.circuit", "circuit")
    asked = ("theirs.circuit", "--model", made / "model")
    for task in ("theirs.py", "theirs.py~nonsense"):
        save_tensors(tmp_path / "theirs.circuit", tensors, header | {"task": task}, "circuit")
        for command in (("explain",), ("verify",), ("view", "--corpus", made / "corpus")):
            assert "; give the task's file with --task" in openwork(*command, *asked).line()
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_rights(openwork, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written" in openwork("tasks", "--json", tmp_path / "locked" / "x.json").line()
    (tmp_path / "closed").mkdir(mode=0o000)
    assert "closed" in openwork("corpus", tmp_path / "closed", "--out", tmp_path / "c").line()


# A full disk


def test_a_full_disk_under_a_file_leaves_nothing(openwork, made, tmp_path, monkeypatch):
    model, full = made / "model", "No space left on device"
    monkeypatch.setattr(os, "fsync", no_space)
    for i, (*arguments, option) in enumerate(
        (
            ("tasks", "--json"),
            ("corpus", "idioms", "--max-tokens", 3000, "--out"),
            ("train", made / "corpus", *TINY, "--out"),
            ("prune", model, "single_double_quote", *QUICK, "--out"),
            ("view", made / "q.circuit", "--model", model, "--corpus", made / "corpus", "--out"),
        )
    ):
        assert full in openwork(*arguments, option, tmp_path / str(i)).line()
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_without_arguments_it_says_what_it_can(openwork):
    ended = openwork()
    assert ended.status == 0 and "prune" in ended.out


@pytest.mark.slow
@pytest.mark.parametrize("what", ["TensorBoard", "TensorBoard's flush", "training.png", "checkpoint"])
def test_a_disk_that_fills_up_while_training_ends_the_run_which_then_goes_on(openwork, made, tmp_path, what):
    train = ("train", made / "corpus", "--out", tmp_path / "m", *TINY)
    where = {
        "TensorBoard": "tensorboard.summary.writer.record_writer.RecordWriter.write",
        "TensorBoard's flush": "tensorboard.summary.writer.record_writer.RecordWriter.flush",
        "training.png": "matplotlib.figure.Figure.savefig",
    }
    with pytest.MonkeyPatch.context() as patch:
        if what == "checkpoint":
            calls: list[int] = []
            sync = os.fsync
            patch.setattr(os, "fsync", lambda fd: no_space() if len(calls) == 2 else (calls.append(1), sync(fd)))
        else:
            patch.setattr(where[what], no_space)
        assert "No space left on device" in openwork(*train).line()
    assert not list(tmp_path.rglob("*.part"))
    assert openwork(*train).status == 0
    ours, theirs = load_model(tmp_path / "m"), load_model(made / "model")
    assert ours.hash == theirs.hash


def test_too_little_memory_is_one_line(openwork, monkeypatch):
    def greedy(*arguments: object) -> None:
        torch.empty(10**15)

    monkeypatch.setattr("openwork.tasks.survey.list_tasks", greedy)
    assert "too little memory" in openwork("tasks").line()


def test_the_names_of_rows_are_never_broken(monkeypatch, capsys):
    monkeypatch.setattr(output, "console", Console(width=40))
    output.print_rows("", [{"task": "set_or_string_fixedvarname", "loss": 0.25, "what": "a long column to fold here"}])
    assert "set_or_string_fixedvarname" in capsys.readouterr().out
