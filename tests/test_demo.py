"""The demo's stages on a tiny model: stopped and taken up again, and its files and numbers agree."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

import openwork
from openwork import cli
from openwork.demo import TASK, DemoConfig, run_demo
from openwork.faithfulness import verify
from openwork.model import ModelConfig
from openwork.pruning import PruneConfig
from openwork.sparsity import SparsityConfig
from openwork.training import Interrupted, TrainConfig, read_metrics

pytestmark = pytest.mark.slow

FILES = {"corpus", "model", f"{TASK}.circuit", "card.json", "page.html", "summary.json"}
CONFIG = DemoConfig(
    train=TrainConfig(
        model=ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=64, d_vocab=500),
        sparsity=SparsityConfig(density=1 / 4, floor=1),
        tokens=2048,
        batch_size=4,
        validation_tokens=400,
        device="cpu",
    ),
    prune=PruneConfig(steps=3, pairs=4, fixed_pairs=8, validation_pairs=8),
    source="idioms",
    d_vocab=500,
    max_tokens=40_000,
)


def quietly(out: Path, config: DemoConfig = CONFIG) -> dict:
    return run_demo(out, config, console=Console(quiet=True), open_page=False)


@pytest.fixture(autouse=True, scope="module")
def few_controls() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openwork.demo.verify", partial(verify, n_random=3, n_pairs=8))
        yield


@pytest.fixture(scope="module")
def done(few_controls: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "out"
    quietly(out)
    return out


def must_not_run(*arguments: object, **options: object) -> None:
    raise AssertionError("a stage that was done is run again")


def test_every_file_is_in_its_place_and_the_numbers_are_those_of_the_artefacts(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == FILES
    summary = json.loads((done / "summary.json").read_text())
    model = openwork.load_model(done / "model")
    circuit = openwork.load_circuit(done / f"{TASK}.circuit", model)
    card = openwork.load_card(done / "card.json")
    assert summary["validation_loss"] == read_metrics(done / "model")[-1]["validation_loss"]
    assert summary["unpruned_loss"] == circuit.losses["unpruned"]
    assert summary["circuit_loss"] == circuit.losses["circuit"]
    assert (summary["nodes"], summary["edges"]) == (len(circuit.nodes), len(circuit.edges))
    assert summary["reached"] == circuit.reached and summary["passed"] == (card.passed and circuit.reached)
    assert {name: check["value"] for name, check in summary["checks"].items()} == {c.name: c.value for c in card.checks}
    assert summary["searches"] == list(circuit.tried) and len(circuit.tried) == CONFIG.seeds
    assert circuit.nodes[0] in (done / "page.html").read_text() and (card.model_hash, model.hash) == (model.hash,) * 2


def test_json_has_the_numbers_of_the_summary_and_of_the_terminal(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("openwork.demo.train_config", lambda seed: CONFIG.train)
    monkeypatch.setattr("openwork.demo.DemoConfig", lambda train: CONFIG)
    command = ["openwork", "demo", "--out", str(done), "--no-open", "--json", str(tmp_path / "demo.json")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    numbers = json.loads((tmp_path / "demo.json").read_text())
    assert numbers == json.loads((done / "summary.json").read_text())
    shown = capsys.readouterr().out
    for number in (f"{numbers['unpruned_loss']:.3f}", f"{numbers['circuit_loss']:.3f}", f"{numbers['nodes']} of"):
        assert number in shown


def test_stopped_anywhere_it_goes_on_where_it_was(done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    @contextmanager
    def stopping(console: Console) -> Iterator:
        yield lambda line: signal.raise_signal(signal.SIGINT) if line["step"] == 3 else None

    with monkeypatch.context() as patch:
        patch.setattr("openwork.demo.training_progress", stopping)
        with pytest.raises(Interrupted, match="stopped after step 3 of 8"):
            quietly(tmp_path / "out")
    for stage in ("prune", "verify", "write_page"):
        with monkeypatch.context() as patch:
            patch.setattr(f"openwork.demo.{stage}", stop)
            if stage != "prune":
                patch.setattr("openwork.demo.train", must_not_run)
            with pytest.raises(KeyboardInterrupt):
                quietly(tmp_path / "out")
    for stage in ("train", "prune", "verify"):
        monkeypatch.setattr(f"openwork.demo.{stage}", must_not_run)
    summary = quietly(tmp_path / "out")
    for name in (f"{TASK}.circuit", "card.json", "model/weights.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (done / name).read_bytes(), name
    unstopped = json.loads((done / "summary.json").read_text())
    assert {**summary, "seconds": 0} == {**unstopped, "seconds": 0}


def test_the_circuit_gives_its_stated_loss_in_another_process(done: Path) -> None:
    code = (
        "import openwork, sys\n"
        "model = openwork.load_model(sys.argv[1] + '/model')\n"
        f"circuit = openwork.load_circuit(sys.argv[1] + '/{TASK}.circuit', model)\n"
        f"print(circuit.loss(openwork.tasks.get('{TASK}', model.tokenizer)), circuit.losses['circuit'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(done)], capture_output=True, text=True, check=True)
    again, stated = map(float, ended.stdout.split())
    assert abs(again - stated) < 1e-6
    assert stated == json.loads((done / "summary.json").read_text())["circuit_loss"]


def test_another_model_or_task_is_refused_and_both_are_named(done: Path) -> None:
    model = openwork.load_model(done / "model")
    circuit = openwork.load_circuit(done / f"{TASK}.circuit", model)
    other_task = openwork.tasks.get("set_or_string", model.tokenizer)
    with pytest.raises(openwork.UserError) as caught:
        circuit.loss(other_task)
    for part in (TASK, circuit.task_hash[:12], other_task.name, other_task.hash[:12]):
        assert part in str(caught.value)
    other = openwork.load_model(done / "model")
    with torch.no_grad():
        other.unembed.bias += 1e-3
    with pytest.raises(openwork.UserError) as caught:
        openwork.load_circuit(done / f"{TASK}.circuit", other)
    assert model.hash[:12] in str(caught.value) and other.hash[:12] in str(caught.value)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model/config.json", "config.json .*is damaged"),
        ("model/weights.safetensors", "no whole weights file"),
        ("corpus/train-00000.bin", "should have"),
        (f"{TASK}.circuit", "no whole circuit file"),
        ("card.json", "card.json is damaged"),
        ("model/metrics.jsonl", "metrics.jsonl does not end with a validation"),
    ],
)
def test_a_damaged_file_is_named_and_not_run_over(done: Path, name: str, says: str) -> None:
    whole = (done / name).read_bytes()
    (done / name).write_bytes(whole[: len(whole) // 2])
    try:
        with pytest.raises(openwork.UserError, match=says) as caught:
            quietly(done)
        assert "\n" not in str(caught.value)
        assert (done / name).stat().st_size == len(whole) // 2
    finally:
        (done / name).write_bytes(whole)


def test_a_demo_with_other_settings_is_refused(done: Path) -> None:
    with pytest.raises(openwork.UserError, match="trained with other settings"):
        quietly(done, replace(CONFIG, train=replace(CONFIG.train, seed=1)))
    with pytest.raises(openwork.UserError, match="holds a corpus with max_tokens"):
        quietly(done, replace(CONFIG, max_tokens=50_000))
    with pytest.raises(openwork.UserError, match=r"2 searches for 0.15 nats on 8 pairs, not of 3 searches for 0.15"):
        quietly(done, replace(CONFIG, seeds=3))
    with pytest.raises(openwork.UserError, match=r"not of 2 searches for 0.1 nats on 8 pairs; give another"):
        quietly(done, replace(CONFIG, prune=replace(CONFIG.prune, target=0.1)))
    with pytest.raises(openwork.UserError, match=r"on 8 pairs, not of .* on 16 pairs; give another"):
        quietly(done, replace(CONFIG, prune=replace(CONFIG.prune, validation_pairs=16)))


def test_the_card_of_another_circuit_is_made_again(done: Path) -> None:
    card = openwork.load_card(done / "card.json")
    replace(card, n_nodes=card.n_nodes + 1).save(done / "card.json")
    quietly(done)
    assert openwork.load_card(done / "card.json") == card
