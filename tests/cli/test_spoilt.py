"""Files and settings that are spoilt, given to the commands: status 2 and one line on stderr, no traceback."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.cli.spoil import QUICK, TINY, cut, flip

from openwork.artifacts import load_card, load_tensors, save_tensors
from openwork.corpus import Tokenizer
from openwork.errors import UserError

# Text


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("", (), "the argument '' is empty"),
        ("nowhere", (), "no corpus source 'nowhere'; give stdlib"),
        ("empty", (), "has no text; check the path"),
        ("binary", (), "1 passed over, first a.py: not text"),
        ("binary/a.py", (), "1 passed over, first a.py: not text"),
        ("broken.parquet", (), "as Parquet"),
        ("rows.jsonl#code", (), "has no column 'code', it has 'text'"),
        ("hub:some/data", (), "hub:some/data"),
        ("idioms", (), "has no end; give max_tokens"),
        ("idioms", ("--max-tokens", 0), "max_tokens is 0"),
        ("idioms", ("--max-tokens", 99, "--d-vocab", 100), "d_vocab is 100"),
        ("idioms", ("--max-tokens", 99, "--d-vocab", 10**12), "d_vocab is 1000000000000"),
        ("idioms", ("--max-tokens", 99, "--validation-fraction", "nan"), "validation_fraction is nan"),
        ("idioms", ("--max-tokens", 99, "--tokenizer", "binary/a.py"), "the tokenizer binary/a.py is damaged"),
        ("idioms", ("--max-tokens", 99, "--tokenizer", "."), "cannot read the tokenizer .: Is a directory"),
        ("stdlib:0.5,idioms:-1", (), "has the weight -1"),
    ],
)
def test_text_that_is_none(openwork, tmp_path, monkeypatch, source, options, says):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for name in ("empty", "binary"):
        (tmp_path / name).mkdir()
    (tmp_path / "binary" / "a.py").write_bytes(b"\0\1")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    before = sorted(tmp_path.rglob("*"))
    assert says in openwork("corpus", source, "--out", tmp_path / "c", *options).line()
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        ("train-00000.bin", flip, "train-00000.bin was altered"),
        ("train-00000.bin", cut, "bytes, but is"),
        ("validation-00000.bin", Path.unlink, "missing"),
        ("manifest.json", flip, "manifest"),
        ("manifest.json", cut, "manifest.json is damaged"),
        ("manifest.json", Path.unlink, "is no corpus (it has no manifest.json)"),
        ("tokenizer.json", lambda path: Tokenizer.train(["a b " * 50], 300).save(path), "not the tokenizer of this"),
    ],
)
def test_a_spoilt_corpus(openwork, made, tmp_path, name, spoil, says):
    shutil.copytree(made / "corpus", tmp_path / "c")
    spoil(tmp_path / "c" / name)
    assert says in openwork("train", tmp_path / "c", "--out", tmp_path / "m", *TINY).line()
    assert not (tmp_path / "m").exists()


# Settings


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("model.d_modle=64", "unknown key 'model.d_modle'; did you mean 'model.d_model'?"),
        ("tokenz=64", "did you mean 'tokens'?"),
        ("nonsense", "write it as key=value"),
        ("model=3", "it has keys of its own"),
        ("model.d_model.x=3", "which is a value"),
        ("model.d_head=5", "model.d_model 16 is not divisible by model.d_head 5"),
        ("model.d_head=0", "model.d_head is 0"),
        ("model.d_model=-16", "model.d_model is -16"),
        ("model.n_heads=-1", "model.n_heads is -1"),
        ("model.d_model=1e9", "this machine has"),
        ("model.n_layers=1e9", "this machine has"),
        ("model.d_vocab=10", "set model.d_vocab=512"),
        ("model.n_ctx=1e6", "lower one of them, or build a larger corpus"),
        ("model.n_ctx=2000", "the context of 2000 tokens is longer than the"),
        ("batch_size=1e12", "a step of batch_size 1000000000000"),
        ("batch_size=0", "batch_size is 0"),
        ("model.activation_fraction=nan", "activation_fraction is nan"),
        ("model.sparse_sites=attn.z", "choose among"),
        ("sparsity.density=0", "density is 0.0"),
        ("sparsity.density=nan", "density is nan"),
        ("sparsity.density=2", "density is 2.0"),
        ("sparsity.density=1e-4", "raise sparsity.density or lower sparsity.floor"),
        ("sparsity.floor=10000", "raise sparsity.density or lower sparsity.floor"),
        ("sparsity.anneal_start=0.9", "must be ordered"),
        ("tokens=-5", "tokens is -5"),
        ("tokens=nan", "tokens is 'nan'"),
        ("learning_rate=inf", "learning_rate is inf"),
        ("weight_decay=-1", "weight_decay is -1"),
        ("betas=2,3", "betas is (2.0, 3.0)"),
        ("betas=0.9", "betas is (0.9,)"),
        ("eps=0", "eps is 0.0"),
        ("warmup=nan", "warmup is nan"),
        ("fast_from=1", "fast_from is 1"),
        ("seed=-1", "seed is -1"),
        ("seed=1e30", "seed is 1000"),
        ("device=tpu", "device is 'tpu'"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_before_training(openwork, made, tmp_path, setting, says):
    assert says in openwork("train", made / "corpus", "--out", tmp_path / "m", *TINY, setting).line()
    assert not list(tmp_path.rglob("*.checkpoint"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("c.toml", b"x = = 3", "c.toml is not valid TOML"),
        ("c.toml", b"\xff\0", "c.toml is not valid TOML"),
        ("c.json", b"[1]", "c.json holds no JSON object"),
        ("c.json", b"[" * 100_000, "c.json is not valid JSON"),
        ("c.json", b'{"tokens": null}', "tokens is None"),
        ("c.json", b'{"betas": 3}', "betas is 3; it must be a list"),
        ("c.json", b'{"batch_size": true}', "batch_size is True"),
        ("c.json", b'{"learning_rate": NaN}', "learning_rate is nan"),
        ("c.json", b'{"model": {"bigram": []}}', "choose one of off"),
    ],
)
def test_a_config_file_that_makes_no_sense(openwork, made, tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    assert says in openwork("train", made / "corpus", "--out", tmp_path / "m", "-c", tmp_path / name).line()


def test_a_config_file_decides_the_device_unless_the_option_does(openwork, made, tmp_path):
    (tmp_path / "c.toml").write_text('device = "abacus"')
    train = ("train", made / "corpus", "--out", tmp_path / "m", *TINY, "-c", tmp_path / "c.toml")
    assert "device is 'abacus'" in openwork(*train).line()
    assert "device is 'slide rule'" in openwork(*train, "--device", "slide rule").line()


# Models


def change(name: str, **values: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = json.loads((path / "config.json").read_text())
        (content if name == "" else content[name]).update(values)
        (path / "config.json").write_text(json.dumps(content))

    return spoil


def weights(edit: Callable[[dict, dict], Any]) -> Callable[[Path], None]:
    """Weights that someone wrote on purpose: their checksum is right."""

    def spoil(path: Path) -> None:
        tensors, header = load_tensors(path / "weights.safetensors", "weights")
        edit(tensors, header)
        save_tensors(path / "weights.safetensors", tensors, header, "weights")

    return spoil


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda p: (p / "config.json").unlink(), "is no Model directory"),
        (lambda p: ((p / "config.json").unlink(), (p / "config.json").mkdir()), "is no Model directory"),
        (lambda p: (p / "config.json").write_text('{"model_type": "gpt2"}'), "config.json is not Openwork's"),
        (lambda p: cut(p / "config.json"), "config.json is damaged"),
        (lambda p: (p / "config.json").write_bytes(b"\xff\0"), "config.json is damaged"),
        (lambda p: (p / "config.json").write_text("[" * 100_000), "config.json is damaged"),
        (lambda p: (p / "config.json").write_text("[]"), "holds no JSON object"),
        (change("", model=None), "config.json is damaged"),
        (change("", format_version="x"), "format"),
        (change("", format_version=99), "update openwork"),
        (change("", hash=[1]), "do not belong together"),
        (change("model", n_layers="two"), "model.n_layers is 'two'"),
        (change("model", d_model=float("nan")), "model.d_model is nan"),
        (change("model", d_model=10**12), "this machine has"),
        (change("model", n_layers=2), "do not fit its config.json"),
        (change("model", n_ctx=10**9), "do not belong together"),
        (change("model", colour="red"), "unknown key 'model.colour'"),
        (lambda p: flip(p / "weights.safetensors"), "weights.safetensors"),
        (lambda p: cut(p / "weights.safetensors"), "no whole weights file"),
        (lambda p: (p / "weights.safetensors").write_bytes(b""), "no whole weights file"),
        (lambda p: (p / "weights.safetensors").unlink(), "cannot read the weights"),
        (lambda p: shutil.copy(p.parent / "means", p / "weights.safetensors"), "holds a means"),
        (lambda p: flip(p / "means.safetensors"), "means.safetensors"),
        (lambda p: cut(p / "tokenizer.json"), "tokenizer.json is damaged"),
        (lambda p: Tokenizer.train(["a b " * 50], 300).save(p / "tokenizer.json"), "of another model?"),
        (weights(lambda tensors, header: header.pop("shapes")), "do not fit"),
        (weights(lambda tensors, header: header.update(shapes="big")), "do not fit"),
        (weights(lambda tensors, header: header["shapes"].update({"embed.weight": [10**7] * 2})), "has the shape"),
        (weights(lambda tensors, header: tensors.popitem()), "do not fit"),
        (
            weights(lambda t, h: t.update({n: x + 10**6 for n, x in t.items() if n.endswith(".indices")})),
            "do not fit",
        ),
    ],
)
def test_a_spoilt_model(openwork, made, tmp_path, spoil, says):
    shutil.copytree(made / "model", tmp_path / "m")
    shutil.copy(made / "model" / "means.safetensors", tmp_path / "means")
    spoil(tmp_path / "m")
    line = openwork("tasks", tmp_path / "m").line()
    assert says in line and (str(tmp_path / "m") in line or "this machine has" in line)


def test_other_settings_than_those_of_the_run_that_is_there(openwork, made):
    line = openwork("train", made / "corpus", "--out", made / "model", *TINY, "learning_rate=0.003").line()
    assert "learning_rate: 0.0128, now 0.003" in line


def test_damaged_checkpoints_and_metrics(openwork, made, tmp_path):
    shutil.copytree(made / "model", tmp_path / "m")
    train = ("train", made / "corpus", "--out", tmp_path / "m", *TINY)
    metrics = (tmp_path / "m" / "metrics.jsonl").read_bytes()
    last = json.loads(metrics.splitlines()[-1])["step"]
    for damage in (b"[1]\n", b"\xff\xfe\n", b"[" * 99_999, b'{"step": "x"}\n', b'{"step": %d}\n' % last):
        (tmp_path / "m" / "metrics.jsonl").write_bytes(damage)
        assert "the metrics of the finished run" in openwork(*train).line()
    (tmp_path / "m" / "metrics.jsonl").write_bytes(metrics)
    for spoil in (flip, cut):
        for path in (tmp_path / "m" / "checkpoints").iterdir():
            spoil(path)
        ended = openwork(*train)
        assert ended.status == 2 and ended.err.splitlines()[-1].endswith("delete the directory to start again")
        assert "Traceback" not in ended.err


# Circuits and cards


def circuit(edit: Callable[[dict, dict], Any]) -> Callable[[Path], None]:
    """A circuit that someone wrote on purpose: its checksum is right."""

    def spoil(path: Path) -> None:
        tensors, header = load_tensors(path, "circuit")
        edit(tensors, header)
        save_tensors(path, tensors, header, "circuit")

    return spoil


def kept(tensors: dict[str, torch.Tensor], values: Any) -> None:
    name = next(name for name in tensors if name.startswith("kept."))
    tensors[name] = torch.tensor(values)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (flip, "q.circuit"),
        (cut, "no whole circuit file"),
        (Path.unlink, "cannot read the circuit"),
        (lambda p: (p.unlink(), p.mkdir()), "Is a directory"),
        (lambda p: p.write_text("{}"), "no whole circuit file"),
        (circuit(lambda t, h: h.update(model_hash="e" * 64)), "belongs to the model eeeeeeeeeeee, not to"),
        (circuit(lambda t, h: h.update(task_hash="f" * 64)), "ffffffffffff"),
        (circuit(lambda t, h: h.update(task="nosuch")), "'nosuch'; give the task's file with --task"),
        (circuit(lambda t, h: h.pop("losses")), "lacks something"),
        (circuit(lambda t, h: h.update(losses=[])), "no circuit of this model"),
        (circuit(lambda t, h: h.pop("model_hash")), "no circuit of this model"),
        (circuit(lambda t, h: h.update(model_hash=3)), "no circuit of this model"),
        (circuit(lambda t, h: h["nodes"].append("9.mlp.post_act.3")), "such as '9.mlp.post_act.3'"),
        (circuit(lambda t, h: h.update(nodes=[1])), "names other nodes than it keeps"),
        (circuit(lambda t, h: h["edges"].append(["a", "b", 1.0])), "it has the edge ('a', 'b', 1.0)"),
        (circuit(lambda t, h: h["edges"].append(h["edges"][0])), "or has it twice"),
        (circuit(lambda t, h: h["edges"][0].__setitem__(2, 99.0)), "which is no weight of the model's"),
        (circuit(lambda t, h: h["edges"][0].__setitem__(slice(0, 2), h["edges"][0][1::-1])), "it has the edge"),
        (circuit(lambda t, h: kept(t, [0, 0])), "or some twice"),
        (circuit(lambda t, h: t.update({"kept.9.mlp.post_act": torch.tensor([1])})), "9.mlp.post_act"),
        (circuit(lambda t, h: kept(t, [10**6])), "keeps node 1000000"),
        (circuit(lambda t, h: kept(t, [-1])), "keeps node -1"),
        (circuit(lambda t, h: kept(t, [0.5])), "torch.float32"),
        (circuit(lambda t, h: t.pop("ablation_values.0.mlp.post_act")), "ablation values"),
        (circuit(lambda t, h: t["ablation_values.0.mlp.post_act"].fill_(float("nan"))), "not finite"),
        (circuit(lambda t, h: h.update(scale=float("nan"))), "its scale is nan"),
        (circuit(lambda t, h: h.update(n_pairs="x")), "its n_pairs is 'x'"),
        (circuit(lambda t, h: h.update(ablation="sawn off")), "its ablation is 'sawn off'"),
    ],
)
def test_a_spoilt_circuit(openwork, made, tmp_path, spoil, says):
    shutil.copy(made / "q.circuit", tmp_path / "q.circuit")
    spoil(tmp_path / "q.circuit")
    page = tmp_path / "page.html"
    view = ("view", tmp_path / "q.circuit", "--model", made / "model", "--corpus", made / "corpus", "--out", page)
    assert says in openwork(*view).line()
    assert says.split()[0] in openwork("verify", tmp_path / "q.circuit", "--model", made / "model").line()
    assert not page.exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (flip, "card.json"),
        (cut, "card.json is damaged"),
        (Path.unlink, "cannot read the card"),
        (lambda p: p.write_text("[]"), "holds no JSON object"),
        (lambda p: p.write_text('{"kind": "circus"}'), "holds no card"),
        (lambda p: p.write_text(p.read_text().replace('"passed": false', '"passed": true')), "was altered"),
        (
            lambda p: p.write_text(p.read_text().replace('"format_version": 1', '"format_version": 99')),
            "update openwork",
        ),
    ],
)
def test_a_spoilt_card(openwork, made, tmp_path, spoil, says):
    card, page = tmp_path / "card.json", tmp_path / "page.html"
    shutil.copy(made / "card.json", card)
    view = ("view", made / "q.circuit", "--model", made / "model", "--corpus", made / "corpus", "--out", page)
    assert openwork(*view, "--card", card).status == 0
    page.unlink()
    assert '"passed": false' in card.read_text()
    spoil(card)
    assert says in openwork(*view, "--card", card).line()
    assert not page.exists()


def test_every_flipped_bit_of_a_card_is_refused_or_changes_nothing(made, tmp_path):
    card, whole = load_card(made / "card.json"), (made / "card.json").read_bytes()
    for place in range(0, len(whole), 7):
        data = bytearray(whole)
        data[place] ^= 1
        (tmp_path / "card.json").write_bytes(data)
        with suppress(UserError):
            assert load_card(tmp_path / "card.json") == card  # white space


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("single_double_qoute",), "did you mean single_double_quote?"),
        (("single_double_quote", "steps=0"), "prune.steps is 0"),
        (("single_double_quote", "target=nan"), "prune.target is nan"),
        (("single_double_quote", "target=inf"), "prune.target is inf"),
        (("single_double_quote", "learning_rate=inf"), "prune.learning_rate is inf"),
        (("single_double_quote", "beta2=3"), "prune.beta2 is 3.0"),
        (("single_double_quote", "init_bias=nan"), "prune.init_bias is nan"),
        (("single_double_quote", "k_coefs=1,nan"), "prune.k_coefs is (1.0, nan)"),
        (("single_double_quote", "edge_prices=-1"), "prune.edge_prices is (-1.0,)"),
        (("single_double_quote", "edge_pairs=0"), "prune.edge_pairs is 0"),
        (("single_double_quote", "--corpus", "/no/such"), "/no/such is no corpus"),
        (("single_double_quote", "ablation=sawn"), "choose one of mean, zero"),
        (("single_double_quote", "stebs=3"), "did you mean 'steps'?"),
    ],
)
def test_a_search_that_cannot_be(openwork, made, tmp_path, arguments, says):
    task, *settings = arguments
    assert says in openwork("prune", made / "model", task, "--out", tmp_path / "c", *QUICK, *settings).line()
    assert not list(tmp_path.iterdir())
