"""A Model directory gives its model back, to the bit and with its hash."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import torch

from openwork import models, tasks
from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer
from openwork.models import load_model, pack, round_weights, save_model, unpack
from openwork.pruning import load_circuit
from openwork.training.card import TEMPLATE
from tests.kernels.test_defaults import default


def test_a_sparse_model_comes_back_with_its_hash_also_where_a_zero_has_a_sign(tmp_path):
    model = Transformer(ModelConfig(n_layers=1, d_model=8, d_head=4, n_ctx=8, d_vocab=16))
    with torch.no_grad():
        model.blocks[0].attn.q.weight.zero_()[0, :3] = torch.tensor([1.0, -0.0, 2.0])
    save_model(model, tmp_path / "model")
    found = load_model(tmp_path / "model")
    assert found.hash == model.hash
    assert found.state_dict()["blocks.0.attn.q.weight"].signbit()[0].tolist() == [False, True] + 6 * [False]


def test_a_model_without_a_tokenizer_can_take_the_place_of_one_with(tmp_path):
    save_model(load_model("reference-sparse"), tmp_path)
    model = Transformer(ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=8, d_vocab=20))
    save_model(model, tmp_path)
    loaded = load_model(tmp_path)
    assert loaded.hash == model.hash and loaded.tokenizer is None and not loaded.means


def test_a_mostly_empty_tensor_is_stored_as_what_it_holds():
    sparse, dense = torch.zeros(4, 5), torch.ones(3)
    sparse[2, 1] = 7
    packed, shapes = pack({"sparse": sparse, "dense": dense})
    assert packed["sparse.indices"].tolist() == [11] and packed["sparse.values"].tolist() == [7]
    assert shapes == {"sparse": [4, 5]}
    assert torch.equal(unpack(packed, shapes)["sparse"], sparse)


def test_what_bfloat16_holds_exactly_takes_two_bytes_and_comes_back_to_the_bit(tmp_path):
    model = Transformer(ModelConfig(n_layers=1, d_model=8, d_head=4, n_ctx=8, d_vocab=16))
    exact = pack({"w": model.embed.weight.detach()})[0]["w"]
    rounded = round_weights(model)
    assert exact.dtype == torch.float32 and pack({"w": rounded.embed.weight.detach()})[0]["w"].dtype == torch.bfloat16
    save_model(rounded, tmp_path / "model")
    assert load_model(tmp_path / "model").hash == rounded.hash


def test_values_that_are_not_numbers_keep_their_bits():
    odd = torch.tensor([float("nan"), float("inf"), -0.0, 1.0])
    packed, shapes = pack({"w": odd})
    assert torch.equal(unpack(packed, shapes)["w"].float().view(torch.int32), odd.view(torch.int32))


@pytest.mark.parametrize("name", models.names())
def test_the_reference_models_open_and_fit_what_their_files_say(name):
    directory = models.path(name)
    assert sum(file.stat().st_size for file in directory.rglob("*") if file.is_file()) < 15e6
    model = load_model(directory)
    about = json.loads((directory / "config.json").read_text())["about"]
    task = tasks.get("single_double_quote", model.tokenizer)
    pairs = task.pairs("validation", 256)
    with torch.no_grad():
        loss = float(pairs.losses(pairs.differences(model(pairs.flat))))
    assert loss == pytest.approx(about["tasks"]["single_double_quote"]["loss"], abs=1e-4)


@pytest.mark.parametrize("side", ["sparse", "dense"])
def test_the_card_of_a_reference_model_is_what_the_script_writes(side):
    script = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "reference_pair.py"))
    directory = models.path(f"reference-{side}")
    card, about = (directory / "README.md").read_text(), json.loads((directory / "config.json").read_text())["about"]
    note = script["note"](side, about["measured"], about["tasks"])
    assert card.endswith(note) and f"move `src/openwork/reference/{side}` away" in note
    written = script["in_package"](TEMPLATE.replace("{path}", str(directory)), side, directory)
    assert {line for line in written.splitlines() if "{" not in line} <= {*card.splitlines()}
    kept = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]
    assert "has the steps that validated" in written and all("validation_loss" in line for line in kept)


def test_the_reference_pair_has_about_the_same_validation_loss():
    sparse, dense = (row["validation loss"] for row in models.list_models())
    assert abs(sparse - dense) <= 0.05


@pytest.mark.slow
def test_every_circuit_that_comes_with_a_model_gives_its_stated_loss_again():
    model = load_model(models.path("reference-sparse"))
    files = sorted((models.path("reference-sparse") / "circuits").glob("*.circuit"))
    assert files
    for file in files:
        circuit = load_circuit(file, model)
        stated = circuit.losses["circuit"]
        assert circuit.reached and circuit.loss(tasks.get(circuit.task, model.tokenizer)) == pytest.approx(
            stated, abs=1e-4
        )


@torch.no_grad()
@pytest.mark.parametrize("of", [torch.float64, torch.bfloat16, "meta"], ids=str)
def test_a_model_is_made_and_loaded_alike_under_every_default_type_and_device(of, tmp_path):
    config = ModelConfig(n_layers=1, d_model=16, d_vocab=90, n_ctx=12, bigram="counted")
    tokens, model = torch.randint(0, 90, (2, 12)), Transformer(config, seed=3)
    as_made = model.hash
    model.blocks[0].mlp.up.weight[1:] = 0  # so that it is stored, and used, as a sparse one
    save_model(model, tmp_path / "model")
    logits = load_model(tmp_path / "model")(tokens)
    with default(of):
        loaded = load_model(tmp_path / "model")
        assert loaded.hash == model.hash and torch.equal(loaded(tokens), logits)
        if of != "meta":
            assert Transformer(config, seed=3).hash == as_made


def test_circuits_can_be_compared_and_kept_in_a_set():
    model = load_model("reference-sparse")
    file = models.path("reference-sparse") / "circuits" / "single_double_quote.circuit"
    one, other = load_circuit(file, model), load_circuit(file, model)
    assert one == one and one != other and len({one, other}) == 2


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="no model 'reference' comes with the package; choose among reference-sparse"):
        models.path("reference")


def test_a_name_stands_for_its_directory_unless_something_lies_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_model("reference-sparse").hash == load_model(models.path("reference-sparse")).hash
    (tmp_path / "reference-sparse").mkdir()
    with pytest.raises(UserError, match="reference-sparse is no Model directory"):
        load_model("reference-sparse")
