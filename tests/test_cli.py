"""What a careless or hostile user gives ends in status 2 and one line; nothing in a traceback, nothing in silence."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from openwork import cli
from openwork.artifacts import load_tensors, save_tensors
from openwork.corpus import Tokenizer, open_corpus
from openwork.errors import UserError

TASK = "single_double_quote"
TINY = (
    *("model.n_layers=1", "model.d_model=16", "model.d_head=4", "model.n_ctx=64", "model.d_vocab=500"),
    *("tokens=1024", "batch_size=4", "sparsity.density=1/4", "sparsity.floor=1", "validation_tokens=400"),
)
QUICK = ("steps=2", "pairs=2", "fixed_pairs=4", "validation_pairs=4")


class Ended(NamedTuple):
    status: int
    out: str
    err: str


Run = Callable[..., Ended]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line in this process."""

    def run_once(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["openwork", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return Ended(int(ended.value.code or 0), *capfd.readouterr())

    return run_once


@pytest.fixture
def refused(run: Run) -> Callable[..., str]:
    """Runs what must be refused; returns the one line that says why."""

    def run_once(*arguments: object) -> str:
        ended = run(*arguments)
        assert ended.status == 2, ended
        assert ended.err.startswith("openwork: ") and ended.err.count("\n") == 1, ended.err
        assert len(ended.err) > 30 and "Traceback" not in ended.out
        return ended.err

    return run_once


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a corpus, a model, a circuit and a card, all made by the command line."""
    home = tmp_path_factory.mktemp("made")
    commands = (
        ("corpus", "idioms", "--out", home / "corpus", "--max-tokens", 40_000, "--d-vocab", 500),
        ("train", home / "corpus", "--out", home / "model", *TINY, "--json", home / "train.json"),
        ("prune", home / "model", TASK, "--out", home / "a.circuit", "--json", home / "prune.json", *QUICK),
    )
    for command in commands:
        with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(sys, "argv", ["openwork", *map(str, command)])
            cli.main()
        assert not ended.value.code
    from openwork import load_circuit, load_model, tasks, verify

    model = load_model(home / "model")
    circuit = load_circuit(home / "a.circuit", model)
    verify(circuit, tasks.get(TASK, model.tokenizer), n_random=2, n_pairs=4).save(home / "card.json")
    return home


@pytest.fixture
def spoil(made: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the model, with files replaced: bytes, None for none, or a function of its JSON."""

    def copy(**files: Any) -> Path:
        directory = tmp_path / "spoilt"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(made / "model", directory, ignore=shutil.ignore_patterns("tensorboard", "checkpoints"))
        for name, content in files.items():
            path = directory / name.replace("__", ".")
            if content is None:
                path.unlink()
            elif callable(content):
                data = json.loads(path.read_text())
                content(data)
                path.write_text(json.dumps(data))
            else:
                path.write_bytes(content)
        return directory

    return copy


def view(made: Path, out: Path, circuit: Path | None = None, **options: object) -> tuple[object, ...]:
    """The arguments of `openwork view`."""
    given = {"model": made / "model", "corpus": made / "corpus", "card": made / "card.json", "out": out, **options}
    return ("view", circuit or made / "a.circuit", *(x for name, value in given.items() for x in (f"--{name}", value)))


# --- what works ---


def test_numbers_in_json_are_those_of_the_artefacts(made: Path, run: Run, tmp_path: Path) -> None:
    train, prune = (json.loads((made / f"{name}.json").read_text()) for name in ("train", "prune"))
    assert train == json.loads((made / "model" / "metrics.jsonl").read_text().splitlines()[-1])
    header = load_tensors(made / "a.circuit", "circuit")[1]
    assert (prune["loss_circuit"], prune["nodes"]) == (header["losses"]["circuit"], len(header["nodes"]))
    assert run(*view(made, tmp_path / "page.html")).status == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000


def test_tasks_are_listed_and_a_task_too_long_for_the_model_has_a_note(made: Path, run: Run, tmp_path: Path) -> None:
    assert run("tasks").status == 0
    assert run("tasks", made / "model", "--json", tmp_path / "t.json").status == 0
    rows = {row["task"]: row for row in json.loads((tmp_path / "t.json").read_text())["tasks"]}
    assert "more than the model's context of 64" in rows["bracket_counting"]["note"]
    assert 0 < rows[TASK]["loss"] < 5


# --- usage ---


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nope"], "No such command 'nope'"),
        (["corpus", "stdlib"], "Missing option '--out'; see `openwork corpus --help`"),
        (["train"], "Missing argument 'CORPUS'"),
        (["train", "c", "--out"], "requires an argument"),
        (["train", "c", "--outt", "x"], "No such option"),
        (["corpus", "idioms", "--out", "x", "--max-tokens", "many"], "--max-tokens"),
        (["corpus", "idioms", "--out", ""], "the argument '' is empty"),
        (["corpus", "", "--out", "x"], "the argument '' is empty"),
        (["tasks", "--json="], "'--json=' is empty"),
        (["bench", "train", "--rounds", "0"], "rounds is 0"),
        (["bench", "train", "--density", "x"], "--density is 'x'"),
        (["bench", "train", "--d-model", "30"], "not divisible by model.d_head"),
    ],
)
def test_wrong_usage_is_one_line(refused, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    assert says in refused(*arguments)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [[], ["bench"]])
def test_without_arguments_there_is_help(run, command):
    ended = run(*command)
    assert ended.status == 2 and "Usage" in ended.out + ended.err and "Traceback" not in ended.err


# --- corpus ---


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("nowhere", "there is no corpus source 'nowhere'"),
        ("idioms", "has no end; give max_tokens"),
        ("{}/empty", "has no text; check the path"),
        ("{}/binary", "1 passed over, first x.py: not text: binary"),
        ("{}/picture.png", "1 passed over, first picture.png"),
        ("hub:no/such", "hub:no/such"),
    ],
)
def test_a_source_without_text_is_refused_and_nothing_is_left(refused, tmp_path, source, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "x.py").write_bytes(b"\0")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0")
    assert says in refused("corpus", source.format(tmp_path), "--out", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary", "empty", "picture.png"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--d-vocab", "3"], "d_vocab is 3"),
        (["--d-vocab", "1000000000"], "d_vocab is 1000000000"),
        (["--validation-fraction", "nan"], "validation_fraction is nan"),
        (["--max-tokens", "-5"], "max_tokens is -5"),
        (["--tokenizer", "/no/such.json"], "cannot read the tokenizer /no/such.json"),
    ],
)
def test_corpus_settings_without_sense_are_refused(refused, tmp_path, options, says):
    (tmp_path / "x.py").write_text("x = 1\n")
    assert says in refused("corpus", tmp_path / "x.py", "--out", tmp_path / "c", *options)


# --- train ---


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("modle.d_model=3", "unknown key 'modle'; did you mean 'model'?"),
        ("model.d_modle=3", "did you mean 'model.d_model'?"),
        ("nonsense", "write it as key=value"),
        ("model.d_model=30", "model.d_model 30 is not divisible by model.d_head 4"),
        ("model.d_model=nan", "must be of type int"),
        ("model.d_model=10000000", "GiB to train, this machine has"),
        ("model.n_layers=1000000000", "GiB to train, this machine has"),
        ("batch_size=1000000000", "GiB to train, this machine has"),
        ("model.n_heads=-1", "model.n_heads is -1"),
        ("model.d_head=0", "model.d_head is 0"),
        ("model.d_vocab=20", "set model.d_vocab=500"),
        ("model.n_ctx=1000000", "the context of 1000000 tokens is longer than the"),
        ("model.activation_fraction=0", "must lie in (0, 1]"),
        ("model.sparse_sites=foo", "model.sparse_sites has 'foo'"),
        ("model.bigram=yes", "choose one of off, counted, learned"),
        ("sparsity.density=0", "sparsity.density is 0.0; it must lie in (0, 1]"),
        ("sparsity.density=nan", "sparsity.density is nan"),
        ("sparsity.density=1/1000", "raise sparsity.density or lower sparsity.floor"),
        ("sparsity.floor=1000", "raise sparsity.density or lower sparsity.floor"),
        ("sparsity.floor=-1", "sparsity.floor is -1"),
        ("tokens=0", "tokens is 0"),
        ("tokens=inf", "must be of type int"),
        ("learning_rate=nan", "learning_rate is nan"),
        ("learning_rate=inf", "learning_rate is inf"),
        ("weight_decay=nan", "weight_decay is nan"),
        ("betas=0.9", "must be 2 values, separated by commas"),
        ("betas=2,3", "betas is (2.0, 3.0)"),
        ("eps=-1", "eps is -1.0"),
        ("seed=-1", "seed is -1"),
        ("seed=99999999999999999999999", "it must be below 2**63"),
    ],
)
def test_training_settings_that_cannot_be_are_refused_before_anything_is_written(
    made, refused, tmp_path, setting, says
):
    assert says in refused("train", made / "corpus", "--out", tmp_path / "m", *TINY, setting)
    assert "choose one of auto, cpu, cuda" in refused(
        "train", made / "corpus", "--out", tmp_path / "m", "--device", "tpu"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"= 3", "is not valid toml"),
        (b"\xff\xfe", "is not valid toml"),
        (b"[model]\nd_modle = 3", "did you mean 'model.d_model'"),
        (b"model = 3", "it has keys of its own"),
        (b"betas = 3", "must be 2 values"),
    ],
)
def test_a_config_file_that_is_none_is_named(made, refused, tmp_path, content, says):
    (tmp_path / "c.toml").write_bytes(content)
    assert says in refused("train", made / "corpus", "--out", tmp_path / "m", "--config", tmp_path / "c.toml")
    assert "cannot read the config" in refused("train", made / "corpus", "--out", tmp_path / "m", "-c", tmp_path / "n")


def test_a_model_is_not_written_over_a_corpus_or_a_file(made, refused, tmp_path):
    assert "holds a corpus" in refused("train", made / "corpus", "--out", made / "corpus", *TINY)
    (tmp_path / "file").write_text("x")
    assert str(tmp_path / "file") in refused("train", made / "corpus", "--out", tmp_path / "file", *TINY)
    assert (tmp_path / "file").read_text() == "x"
    assert "is no corpus" in refused("train", made / "model", "--out", tmp_path / "m")


def test_other_settings_than_the_run_that_is_there_are_refused(made, refused):
    assert "tokens: 1024, now 900" in refused("train", made / "corpus", "--out", made / "model", *TINY, "tokens=900")


# --- models ---


def config(**changes: Any) -> Callable[[Any], None]:
    return lambda content: content["model"].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        *[{"config__json": data} for data in (b"", b"{", b"{}", b"[]", b"null", b"\xff\xfe", b"[" * 10**5)],
        *[{"config__json": b'{"kind": "model", ' + rest} for rest in (b"}", b'"format_version": 1, "model": 3}')],
        {"config__json": b'{"kind": "model", "format_version": 99}'},
        {"config__json": b'{"kind": "model", "format_version": "1"}'},
        *[{"config__json": config(d_model=value)} for value in (None, "x", 32, float("nan"), [1], 10**12, -1)],
        *[{"config__json": config(sparse_sites=value)} for value in (3, None, [1], ["foo"])],
        *[{"config__json": config(n_layers=value)} for value in (2, 0, 3)],
        *[{"config__json": config(**change)} for change in ({"extra": 1}, {"bias": "maybe"}, {"norm": ["rms"]})],
        *[{"config__json": config(**change)} for change in ({"n_ctx": 49}, {"sink": False}, {"tied": True})],
        {"config__json": config(d_vocab=10**12)},
        {"config__json": lambda content: content.update(hash=3)},
        {"config__json": lambda content: content.pop("hash")},
        {"config__json": None},
        {"weights__safetensors": None},
        {"weights__safetensors": b""},
        {"weights__safetensors": (2**40).to_bytes(8, "little") + b"{}"},
        {"tokenizer__json": None},
        {"tokenizer__json": b"{}"},
        {"means__safetensors": b"x"},
    ],
    ids=str,
)
def test_a_spoilt_model_is_refused(refused, spoil, change):
    assert str(path := spoil(**change)) in refused("prune", path, TASK, "--out", path / "c", *QUICK)
    assert not (path / "c").exists()


def test_truncated_or_flipped_weights_and_another_tokenizer_are_refused(made, refused, spoil):
    whole = (made / "model" / "weights.safetensors").read_bytes()
    for data in (whole[:-5], whole[:99], whole[: len(whole) // 2], flipped(whole, 0.5), flipped(whole, 0.9)):
        assert "weights.safetensors" in refused("tasks", spoil(weights__safetensors=data))
    assert "holds a circuit, not a weights" in refused(
        "tasks", spoil(weights__safetensors=(made / "a.circuit").read_bytes())
    )
    other = Tokenizer.train(["another text"], 300).json.encode()
    assert "do not belong together" in refused("tasks", spoil(tokenizer__json=other))


def flipped(data: bytes, place: float) -> bytes:
    copy = bytearray(data)
    copy[int(place * len(data))] ^= 1
    return bytes(copy)


# --- prune ---


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--seeds", "0"], "seeds is 0"),
        (["--seeds", "-3"], "seeds is -3"),
        (["--seed", "-1"], "seed is -1"),
        (["--seed", "9999999999999999999999"], "seed is 9999999999999999999999"),
        (["steps=0"], "prune.steps is 0"),
        (["target=nan"], "prune.target is nan"),
        (["target=inf"], "prune.target is inf"),
        (["k_coef=nan"], "prune.k_coef is nan"),
        (["k_coef=-1"], "prune.k_coef is -1"),
        (["learning_rate=inf"], "prune.learning_rate is inf"),
        (["beta2=3"], "prune.beta2 is 3"),
        (["ablation=none"], "choose one of mean, zero"),
        (["step=3"], "did you mean 'steps'?"),
        (["--corpus", "/no/such"], "/no/such is no corpus"),
        (["--json", "/"], "cannot write /: it is a directory"),
        (["--config", "/no/such.toml"], "cannot read the config /no/such.toml"),
    ],
)
def test_pruning_settings_that_cannot_be_are_refused(made, refused, tmp_path, options, says):
    assert says in refused("prune", made / "model", TASK, "--out", tmp_path / "c", *QUICK, *options)
    assert not list(tmp_path.iterdir())


def test_wrong_orders_and_names_are_refused(made, refused, tmp_path):
    assert "is no Model directory" in refused("prune", TASK, made / "model", "--out", tmp_path / "c")
    assert f"did you mean {TASK}?" in refused("prune", made / "model", TASK[:-1], "--out", tmp_path / "c")
    assert "it is a directory" in refused("prune", made / "model", TASK, "--out", tmp_path)
    assert "more than the model's context" in refused(
        "prune", made / "model", "bracket_counting", "--out", tmp_path / "c"
    )
    assert "is no Model directory" in refused("verify", made / "model", "--model", made / "a.circuit")
    assert "cannot read the circuit" in refused("verify", made / "model", "--model", made / "model")
    assert "cannot read the circuit" in refused("verify", made / "none", "--model", made / "model")
    assert "is no corpus" in refused(*view(made, tmp_path / "p", corpus=made / "model"))
    assert "is damaged" in refused(*view(made, tmp_path / "p", card=made / "a.circuit"))
    assert "not a card" in refused(*view(made, tmp_path / "p", card=made / "model" / "config.json"))


def test_a_circuit_needs_means_or_a_corpus(made, refused, spoil, tmp_path):
    assert "--corpus" in refused("prune", spoil(means__safetensors=None), TASK, "--out", tmp_path / "c", *QUICK)


# --- circuits and cards ---

DROP = object()


@pytest.mark.parametrize(
    "change",
    [
        *[{"model_hash": value} for value in (DROP, 3, None, "0" * 64)],
        *[{"nodes": value} for value in (3, None, [], ["foo"], ["9.mlp.post_act.1"], [1])],
        *[{"edges": value} for value in (None, 3, [[1]], [["a", "b", "c"]], [["a", "b", 1.0]])],
        *[{"losses": value} for value in ({}, [], 3, {"circuit": "x", "unpruned": 1})],
        *[{"scale": value} for value in ("x", None, float("nan"))],
        *[{"n_pairs": value} for value in (0, -1, "x", None)],
        *[{"task": value} for value in ("nope", 3, None)],
        *[{"task_hash": value} for value in ("0" * 64, None, 3)],
        *[{name: value} for name, value in (("ablation", "foo"), ("target", None), ("tried", 3), ("extra", 1))],
        {"seed": DROP},
    ],
    ids=str,
)
def test_a_circuit_that_was_tampered_with_is_refused(made, refused, tmp_path, change):
    tensors, header = load_tensors(made / "a.circuit", "circuit")
    header = {k: v for k, v in {**header, **change}.items() if v is not DROP and k not in ("kind", "format_version")}
    save_tensors(tmp_path / "c", tensors, header, "circuit")
    refused(*view(made, tmp_path / "p", tmp_path / "c"))
    assert not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"kept.0.attn.act_in": torch.tensor([999])},
        {"kept.0.attn.act_in": torch.tensor([-1])},
        {"kept.0.attn.act_in": torch.tensor([0.5])},
        {"kept.0.attn.act_in": torch.tensor(3)},
        {"kept.9.mlp.post_act": torch.tensor([1])},
        {"ablation_values.0.attn.act_in": torch.zeros(3)},
        {"ablation_values.0.attn.act_in": torch.full((16,), float("nan"))},
        {"ablation_values.0.mlp.post_act": torch.zeros(99)},
        {"ablation_values.foo": torch.zeros(3)},
    ],
    ids=str,
)
def test_a_circuit_with_nodes_that_the_model_does_not_have_is_refused(made, refused, tmp_path, change):
    tensors, header = load_tensors(made / "a.circuit", "circuit")
    save_tensors(tmp_path / "c", {**tensors, **change}, header, "circuit")
    refused(*view(made, tmp_path / "p", tmp_path / "c"))


def test_a_truncated_or_flipped_circuit_is_refused_and_so_is_another_file(made, refused, tmp_path):
    whole = (made / "a.circuit").read_bytes()
    others = [(made / "model" / "weights.safetensors").read_bytes(), b"", b"{}", b"\x80\x04cos\nsystem\n."]
    for data in (whole[:-1], whole[:200], flipped(whole, 0), flipped(whole, 0.3), flipped(whole, 0.99), *others):
        (tmp_path / "c").write_bytes(data)
        assert str(tmp_path / "c") in refused("verify", tmp_path / "c", "--model", made / "model")


@pytest.mark.parametrize(
    "change",
    [
        *[{"checks": value} for value in (3, None, [], [{}], [3])],
        *[{"model_hash": value} for value in (None, 3, "0" * 64)],
        *[{"n_nodes": value} for value in (10**6, "x")],
        *[{name: value} for name, value in (("format_version", 99), ("kind", "circuit"), ("task_hash", 5))],
    ],
    ids=str,
)
def test_a_card_of_another_circuit_or_none_is_refused(made, refused, tmp_path, change):
    card = json.loads((made / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps({**card, **change}))
    refused(*view(made, tmp_path / "p", card=tmp_path / "card.json"))


@pytest.mark.parametrize(
    "field", [{"value": "x"}, {"value": None}, {"passed": "x"}, {"name": 3}, {"detail": 3}], ids=str
)
def test_a_card_with_a_check_that_is_none_is_refused(made, refused, tmp_path, field):
    card = json.loads((made / "card.json").read_text())
    card["checks"][0].update(field)
    (tmp_path / "card.json").write_text(json.dumps(card))
    assert "lacks something" in refused(*view(made, tmp_path / "p", card=tmp_path / "card.json"))


def test_a_spoilt_corpus_is_refused_by_every_command_that_reads_one(made, refused, tmp_path):
    shutil.copytree(made / "corpus", tmp_path / "c")
    shard = tmp_path / "c" / "train-00000.bin"
    shard.write_bytes(flipped(shard.read_bytes(), 0.5))
    assert "train-00000.bin was altered" in refused("train", tmp_path / "c", "--out", tmp_path / "m", *TINY)
    assert "train-00000.bin was altered" in refused(*view(made, tmp_path / "p", corpus=tmp_path / "c"))
    shard.write_bytes(shard.read_bytes()[:-1])
    assert "train-00000.bin should have" in refused("train", tmp_path / "c", "--out", tmp_path / "m", *TINY)


def test_a_corpus_with_another_tokenizer_than_the_model_is_refused(made, refused, run, tmp_path):
    (tmp_path / "x.py").write_text("x = 1\n" * 2000)
    run("corpus", tmp_path / "x.py", "--out", tmp_path / "c", "--d-vocab", 260, "--validation-fraction", 0)
    line = refused(*view(made, tmp_path / "p", corpus=tmp_path / "c"))
    assert open_corpus(tmp_path / "c").tokenizer.hash[:12] in line


# --- the machine ---


def no_space(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("command", ["corpus", "train", "prune", "view"])
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(made, refused, tmp_path, monkeypatch, command):
    out = tmp_path / "out"
    arguments = {
        "corpus": ("corpus", "idioms", "--max-tokens", 2000, "--d-vocab", 300, "--out", out),
        "train": ("train", made / "corpus", "--out", out, *TINY),
        "prune": ("prune", made / "model", TASK, "--out", out, *QUICK),
        "view": view(made, out),
    }[command]
    monkeypatch.setattr(os, "fsync", no_space)
    assert "No space left on device" in refused(*arguments)
    assert not out.is_file() and not list(tmp_path.rglob("*.part"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("where", ["metrics.jsonl", "tensorboard", "training.png"])
def test_a_disk_that_fills_up_while_training_is_one_line_and_the_run_goes_on(
    made, refused, run, tmp_path, monkeypatch, where
):
    from openwork.training import metrics

    command = ("train", made / "corpus", "--out", tmp_path / "m", *TINY, "checkpoint_every=1", "--json", tmp_path / "j")
    with monkeypatch.context() as patch:
        opening = Path.open

        def full(path: Path, *arguments: Any, **options: Any) -> Any:
            if path.name == where:
                return opening(Path("/dev/full"), "a")
            full_here = where == "training.png" and where in path.name
            return no_space() if full_here else opening(path, *arguments, **options)

        patch.setattr(Path, "open", full)
        if where == "tensorboard":
            patch.setattr(metrics.MetricsLog, "_write_board", no_space)
        line = refused(*command)
    assert "No space left on device" in line
    assert str(tmp_path / "m" / ("training.png" if where == "training.png" else "metrics.jsonl")) in line
    assert not (tmp_path / "m" / "config.json").exists() and not (tmp_path / "j").exists()
    assert run(*command).status == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "m" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_terminal_that_cannot_be_written_is_one_line():
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-m", "openwork.cli", "tasks"], stdout=full, stderr=subprocess.PIPE)
    assert ended.returncode == 2 and b"Traceback" not in ended.stderr and b"No space left" in ended.stderr


@pytest.mark.parametrize("command", [("tasks", "--json"), ("corpus", "idioms", "--max-tokens", "2000", "--json")])
def test_a_json_file_that_cannot_be_written_is_told_before_the_work(refused, tmp_path, monkeypatch, command):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    more = ("--out", tmp_path / "c") if command[0] == "corpus" else ()
    for place in (tmp_path, tmp_path / "file" / "x.json", "/proc/x.json"):
        assert f"cannot write {place}" in refused(*command, place, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_rights_is_named(made, refused, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "Permission denied" in refused("prune", made / "model", TASK, "--out", tmp_path / "locked" / "c", *QUICK)
    (tmp_path / "locked").chmod(0)
    assert "locked" in refused("tasks", tmp_path / "locked" / "model")


def test_no_rights_are_named(made, refused, monkeypatch, tmp_path):
    def forbidden(path: Path, *arguments: object, **options: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", forbidden)
        assert "Permission denied" in refused("tasks", made / "model")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", forbidden)
        assert f"cannot write {tmp_path / 'x' / 'c'}: Permission denied" in refused(
            "prune", made / "model", TASK, "--out", tmp_path / "x" / "c", *QUICK
        )


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 64 bytes")])
def test_too_little_memory_is_one_line(made, refused, monkeypatch, error):
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("openwork.models.load_model", fail)
    assert "not enough memory" in refused("tasks", made / "model")


def test_an_error_of_ours_is_not_hidden(made, monkeypatch):
    monkeypatch.setattr("openwork.models.load_model", lambda path: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["openwork", "tasks", str(made / "model")])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(
    "place", ["openwork.models.load_model", "openwork.tasks.get", "openwork.pruning.search.fewest"]
)
def test_ctrl_c_ends_with_130_and_leaves_nothing(made, run, tmp_path, monkeypatch, place):
    def interrupted(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    ended = run("prune", made / "model", TASK, "--out", tmp_path / "c", *QUICK)
    assert ended.status == 130
    assert ended.err == "openwork: stopped; the same command goes on where it was\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3, 5, 8])
def test_a_real_ctrl_c_stops_training_and_the_same_command_goes_on(made, tmp_path, seconds):
    command = [sys.executable, "-m", "openwork.cli", "train", made / "corpus", "--out", tmp_path / "m", *TINY]
    more = ["tokens=400000", "checkpoint_every=1000"]
    process = subprocess.Popen([*map(str, command), *more], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "m" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(seconds / 10)
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and b"Traceback" not in err
    assert b"openwork: stopped after step" in err
    assert len(list((tmp_path / "m" / "checkpoints").glob("*.checkpoint"))) == 1


def test_a_closed_pipe_is_no_error():
    command = [sys.executable, "-m", "openwork.cli", "tasks"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.communicate(timeout=120)[1] == b""
    assert process.returncode == 1


def test_a_library_user_gets_the_same_line_as_a_value_error(made):
    from openwork import load_model

    with pytest.raises(UserError, match="is no Model directory") as caught:
        load_model(made)
    assert isinstance(caught.value, ValueError)
