"""`openwork import` and `openwork export`, from a release's files to other tools' files."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

import openwork
from openwork.cli import app
from openwork.errors import UserError
from openwork.interop.card import about_model, model_card
from openwork.model import ModelConfig
from tests.interop.releases import write
from tests.interop.test_openai_files import CONFIG, write_tokenizer

BIG = {**CONFIG, "vocab_size": 2048, "block_size": 64}


def run(*arguments) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False, standalone_mode=False)
    return done.output


@pytest.fixture
def release(tmp_path):
    write(tmp_path / "release", BIG)
    write_tokenizer(tmp_path / "release")
    return tmp_path / "release"


def test_a_release_becomes_a_model_directory_with_a_card(release, tmp_path):
    run("import", "openai", release, "--out", tmp_path / "model", "--json", tmp_path / "numbers.json")
    model = openwork.load_model(tmp_path / "model")
    tokens = torch.tensor([model.tokenizer.encode("def f(self):\n    return 12\n")])
    torch.testing.assert_close(model(tokens), openwork.interop.openai.load(release)(tokens))
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["hash"] == model.hash and numbers["vocabulary"] == 2048
    card = (tmp_path / "model" / "README.md").read_text()
    assert "license: apache-2.0" in card and "openai/circuit_sparsity" in card and model.hash in card


def test_what_cannot_be_imported_is_one_line(release, tmp_path):
    (release / "final_model.pt").write_bytes(b"no")
    with pytest.raises(UserError, match="no whole PyTorch file"):
        run("import", "openai", release, "--out", tmp_path / "model")
    assert not (tmp_path / "model").exists()
    with pytest.raises(UserError, match="neither a directory nor the name"):
        run("import", "openai", tmp_path / "nowhere", "--out", tmp_path / "model")


def test_an_imported_model_is_exported_to_hugging_face(release, tmp_path):
    transformers = pytest.importorskip("transformers")
    run("import", "openai", release, "--out", tmp_path / "model")
    run("export", "huggingface", tmp_path / "model", tmp_path / "hub")
    tokens = torch.randint(0, 2048, (1, 20))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hub")
    torch.testing.assert_close(theirs(tokens).logits, openwork.load_model(tmp_path / "model")(tokens))
    assert "openai/circuit_sparsity" in (tmp_path / "hub" / "README.md").read_text()


def test_a_circuit_is_exported_by_the_ending_of_the_file(tmp_path):
    from tests.interop.test_names_and_graphs import make_planted

    circuit = make_planted()
    circuit.model.tokenizer = None
    openwork.save_model(circuit.model, tmp_path / "model")
    openwork.artifacts.replace(circuit, model_hash=circuit.model.hash).save(tmp_path / "one.circuit")
    for file in ("a.csv", "a.graphml"):
        run("export", "graph", tmp_path / "one.circuit", tmp_path / file, "--model", tmp_path / "model")
        assert "0.attn.resid_delta.2" in (tmp_path / file).read_text()


def test_what_cannot_be_exported_is_told_before_anything_is_opened(tmp_path, monkeypatch):
    monkeypatch.setattr("openwork.models.load_model", pytest.fail)
    (tmp_path / "file").write_text("mine")
    graph, model = ("export", "graph", tmp_path / "one.circuit"), ("--model", tmp_path / "model")
    for arguments, says in {
        (*graph, tmp_path / "a.json", *model): "give --prompt",
        (*graph, tmp_path / "a.txt", *model): "ends in '.txt'",
        (*graph, tmp_path / "a.csv", *model, "--prompt", "x"): "leave --prompt out",
        (*graph, tmp_path / "file" / "a.csv", *model): "cannot be written in",
        ("export", "huggingface", tmp_path / "model", tmp_path): "exists and is not empty",
        ("export", "huggingface", tmp_path / "model", tmp_path / "file"): "is a file, not a directory",
    }.items():
        with pytest.raises(UserError, match=says):
            run(*arguments)


def test_a_model_is_not_imported_over_another(release, tmp_path):
    out = tmp_path / "model"
    run("import", "openai", release, "--out", out)
    run("import", "openai", release, "--out", out)  # the same one is no loss
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    write(tmp_path / "other", {**BIG, "n_layer": 1})
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "config.json").write_text('{"model_type": "gpt2"}')
    for place in (out, tmp_path / "theirs"):
        with pytest.raises(UserError, match="holds another model"):
            run("import", "openai", tmp_path / "other", "--out", place)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("mine")
    with pytest.raises(UserError, match="has a README.md"):
        run("import", "openai", release, "--out", tmp_path / "project")
    assert (tmp_path / "project" / "README.md").read_text() == "mine"
    with pytest.raises(UserError, match="leave --downloads"):
        run("import", "openai", release, "--out", tmp_path / "new", "--downloads", tmp_path / "kept")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert "no tokenizer was found" in run("import", "openai", tmp_path / "other", "--out", tmp_path / "new")


def test_means_are_not_given_where_none_are_used(release, tmp_path):
    model = openwork.interop.openai.load(release)
    with pytest.raises(UserError, match="with zero ablation the means m.pt are not used"):
        openwork.interop.openai.load_circuit("viz.pt", model, None, means="m.pt", ablation="zero")


def test_the_card_tells_sparse_from_dense_and_shows_the_last_numbers(tmp_path):
    model = openwork.Transformer(ModelConfig(n_layers=2, d_model=16, d_head=4, n_ctx=8, d_vocab=32), seed=1)
    openwork.save_model(model, tmp_path, about={"corpus": "c" * 64})
    lines = [{"step": step, "validation_loss": loss} for step, loss in ((1, 5.0), (2, 4.5))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    card = model_card(model, about_model(tmp_path), "")
    assert "# Dense transformer, 2 layers" in card and f"the corpus with hash `{'c' * 64}`" in card
    assert "| validation loss, nats per token | 4.5 |" in card
    for parameter in model.parameters():
        parameter.data.view(-1)[1:] = 0
    assert "# Weight-sparse transformer" in model_card(model, {}, "")
