"""A run that was killed or stopped, and resumed, ends with the same bits as one that never stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.training.killed_run import config

from openwork.corpus import Corpus, build_corpus
from openwork.errors import Interrupted, UserError
from openwork.models import load_model
from openwork.training import read_metrics, train

ROOT = Path(__file__).parents[2]


def run_once(mode: str, corpus: Path, out: Path, point: str, n: int) -> int:
    command = [sys.executable, "-m", "tests.training.killed_run", mode, str(corpus), str(out), point, str(n)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120).returncode


both_modes = pytest.mark.parametrize("mode", ["exact", "fast"])


@pytest.fixture(scope="module")
def unstopped(tiny_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    runs = {mode: tmp_path_factory.mktemp("unstopped") / mode for mode in ("exact", "fast")}
    for mode, out in runs.items():
        train(tiny_corpus, config(mode), out)
    return runs


def assert_same_run(a: Path, b: Path) -> None:
    ours, theirs = load_model(a), load_model(b)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, theirs.state_dict()[name]), name
    assert ours.hash == theirs.hash
    timeless = [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_metrics(a)]
    assert timeless == [{k: v for k, v in line.items() if k != "tokens_per_second"} for line in read_metrics(b)]


@pytest.mark.slow
@both_modes
def test_tied_embeddings_are_stopped_and_resumed(mode, tiny_corpus, tmp_path, monkeypatch):
    """The embedding is saved under both its names, which share their memory."""
    tied = replace(config(mode), model=replace(config(mode).model, tied=True))
    train(tiny_corpus, tied, tmp_path / "whole")
    monkeypatch.setattr("openwork.training.loop.save_model", lambda *a, **k: pytest.fail())
    with pytest.raises(pytest.fail.Exception):
        train(tiny_corpus, tied, tmp_path / "stopped")
    monkeypatch.undo()
    newest = sorted((tmp_path / "stopped" / "checkpoints").glob("step-*"))[-1]
    newest.unlink()
    train(tiny_corpus, tied, tmp_path / "stopped")
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("point", "n"),
    [
        ("openwork.training.loop.train_step", 1),  # before anything was saved
        ("openwork.training.loop.train_step", 5),  # between two checkpoints
        ("openwork.sparsity.optimizer.project_", 8),  # after the optimiser's step, before the projection
        ("os.fsync", 2),  # half way through writing a checkpoint
        ("openwork.training.loop.save_model", 1),  # trained to the end, the Model not yet written
    ],
)
def test_killed_and_resumed_is_bit_identical(tiny_corpus, tmp_path, unstopped, point, n):
    out = tmp_path / "model"
    assert run_once("exact", tiny_corpus.path, out, point, n) == -signal.SIGKILL
    assert run_once("exact", tiny_corpus.path, out, "none", 0) == 0
    assert_same_run(out, unstopped["exact"])
    assert all(path.suffix == ".checkpoint" for path in (out / "checkpoints").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("n", [8, 10, 11])  # checkpoints are every 3 steps, as refreshes: goes on at a refresh
def test_killed_in_fast_mode_and_resumed_is_bit_identical(tiny_corpus, tmp_path, unstopped, n):
    out = tmp_path / "model"
    assert run_once("fast", tiny_corpus.path, out, "openwork.training.loop.train_step", n) == -signal.SIGKILL
    assert run_once("fast", tiny_corpus.path, out, "none", 0) == 0
    assert_same_run(out, unstopped["fast"])


@both_modes
@pytest.mark.parametrize("stop", [5, *(pytest.param(stop, marks=pytest.mark.slow) for stop in (8, 9, 10))])
def test_asked_to_stop_it_ends_after_the_step_and_goes_on_from_there(tiny_corpus, tmp_path, unstopped, mode, stop):
    out = tmp_path / "model"

    def stop_here(line):
        if line["step"] == stop:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(Interrupted, match=f"stopped after step {stop} of 12"):
        train(tiny_corpus, config(mode), out, stop_here)
    assert [line["step"] for line in read_metrics(out)] == list(range(1, stop + 1))
    steps = []
    train(tiny_corpus, config(mode), out, lambda line: steps.append(line["step"]))
    assert steps == list(range(stop + 1, 13))
    assert_same_run(out, unstopped[mode])


def test_other_settings_or_another_corpus_are_refused(tiny_corpus, unstopped):
    with pytest.raises(UserError, match=r"learning_rate: 0\.02, now 0\.03"):
        train(tiny_corpus, replace(config(), learning_rate=0.03), unstopped["exact"])


def test_a_second_run_does_not_write_where_one_goes_on(tiny_corpus, tmp_path, unstopped):
    def begin_another(line):
        if line["step"] == 5:
            with pytest.raises(UserError, match="another run writes to .*checkpoints"):
                train(tiny_corpus, config(), tmp_path / "m")

    train(tiny_corpus, config(), tmp_path / "m", begin_another)
    assert_same_run(tmp_path / "m", unstopped["exact"])
    train(tiny_corpus, config(), tmp_path / "m")


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tiny_corpus, tmp_path, unstopped, caplog):
    out = tmp_path / "model"
    train(tiny_corpus, config(), out)
    before, newest = sorted((out / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(Interrupted):
        train(tiny_corpus, config(), out, lambda line: signal.raise_signal(signal.SIGINT))
    assert newest.name in caplog.text
    saved = "step-00000010.checkpoint"
    assert [path.name for path in sorted((out / "checkpoints").iterdir())] == [
        before.name,
        saved,
        newest.stem + ".damaged",
    ]
    train(tiny_corpus, config(), out)
    assert_same_run(out, unstopped["exact"])
    for path in (out / "checkpoints").iterdir():
        path.write_bytes(b"x" * 100)
    with pytest.raises(UserError, match="no checkpoint in .* is whole"):
        train(tiny_corpus, config(), out)


def test_the_newest_two_checkpoints_are_kept(tiny_corpus, tmp_path):
    train(tiny_corpus, config(), tmp_path / "m")
    names = sorted(path.name for path in (tmp_path / "m" / "checkpoints").iterdir())
    assert names == ["step-00000009.checkpoint", "step-00000012.checkpoint"]


def test_a_run_does_not_go_on_with_another_corpus(tiny_corpus, tmp_path):
    (tmp_path / "s").mkdir()
    for i in range(40):
        (tmp_path / "s" / f"{i}.py").write_text(f"other_{i} = {i}\n" * 20)
    other = build_corpus(str(tmp_path / "s"), tmp_path / "c", d_vocab=280)
    train(tiny_corpus, config(), tmp_path / "m")
    with pytest.raises(UserError, match=f"made with corpus '{tiny_corpus.manifest.hash}', now"):
        train(other, config(), tmp_path / "m")


def test_sigterm_stops_too_and_handlers_are_then_as_they_were(tiny_corpus, tmp_path):
    def own(number, frame):
        pass

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, own) for number in numbers]
    try:
        with pytest.raises(Interrupted, match="stopped after step 2"):
            train(tiny_corpus, config(), tmp_path / "m", lambda line: line["step"] == 2 and signal.raise_signal(15))
        assert [signal.getsignal(number) for number in numbers] == [own, own]
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def test_a_second_ctrl_c_does_not_wait_for_the_step(tiny_corpus, tmp_path):
    def twice(line):
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tiny_corpus, config(), tmp_path / "m", twice)


def test_a_run_in_a_thread_leaves_signals_alone(tiny_corpus, tmp_path):
    thread = threading.Thread(target=train, args=(tiny_corpus, config(), tmp_path / "m"))
    thread.start()
    thread.join()
    assert load_model(tmp_path / "m").means
