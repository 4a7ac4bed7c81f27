from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from tests.training.killed_run import config

from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer, mean_activations
from openwork.models import load_model
from openwork.sparsity import SparsityConfig, density_at, learning_rate_at
from openwork.training import TrainConfig, corpus_means, read_metrics, train
from openwork.training.loop import MEANS_BATCH, MEANS_SEED, Diverged, count_bigrams, pick_device
from openwork.training.metrics import validation_batches


def test_training_learns_and_ends_exactly_sparse(tiny_corpus, tmp_path):
    wanted = replace(config(), tokens=60 * 32)
    model = train(tiny_corpus, wanted, tmp_path / "model")
    lines = read_metrics(tmp_path / "model")
    assert lines[-1]["validation_loss"] < lines[3]["validation_loss"] < math.log(300) + 0.3
    up = model.blocks[0].mlp.up.weight
    assert int((up != 0).sum()) == lines[-1]["l0_of"]["blocks.0.mlp.up.weight"] == round(up.numel() / 8)
    assert (tmp_path / "model" / "training.png").stat().st_size > 1000
    assert any((tmp_path / "model" / "tensorboard").iterdir())
    assert set(lines[-1]) >= {
        "loss",
        "validation_loss",
        "l0",
        "dead_neurons",
        "dead_qk_channels",
        "gradient_rms",
        "tokens_per_second",
    }


def test_annealing_to_the_very_end_ends_at_the_density_that_was_asked_for(tiny_corpus, tmp_path):
    whole = replace(config(), sparsity=SparsityConfig(density=1 / 8, anneal_end=1, floor=2))
    model = train(tiny_corpus, whole, tmp_path / "m")
    assert read_metrics(tmp_path / "m")[-1]["density"] == 1 / 8
    weight = model.blocks[0].mlp.up.weight
    assert int(weight.count_nonzero()) == round(weight.numel() / 8)


def test_density_one_trains_a_dense_model(tiny_corpus, tmp_path):
    wanted = replace(config(), sparsity=SparsityConfig(density=1), tokens=64)
    model = train(tiny_corpus, wanted, tmp_path / "model")
    assert int((model.blocks[0].mlp.up.weight == 0).sum()) == 0


def test_the_model_is_found_again_with_its_means_and_its_card(tiny_corpus, tmp_path):
    model = train(tiny_corpus, replace(config(), tokens=64), tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    tokens = tiny_corpus.batch("validation", 0, 2, 8, 0)[:, :-1]
    assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.means.keys() == model.means.keys() != set()
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"{read_metrics(tmp_path / 'model')[-1]['validation_loss']:.3f}" in card
    weights = [parameter for name, parameter in model.named_parameters() if name != "bigram"]
    kept, every = sum(int((weight != 0).sum()) for weight in weights), sum(weight.numel() for weight in weights)
    assert f"| non-zero parameters | {kept:,} of {every:,}" in card


@pytest.mark.parametrize(
    ("spoil", "site"), [("blocks.0.mlp.up.weight", "0.mlp.post_act"), ("embed.weight", "0.resid_in")]
)
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_site(tiny_corpus, tmp_path, monkeypatch, spoil, site):
    class Spoiled(Transformer):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            with torch.no_grad():
                self.get_parameter(spoil).fill_(float("nan"))

    monkeypatch.setattr("openwork.training.loop.Transformer", Spoiled)
    with pytest.raises(Diverged, match=f"step 1: .* are in {site}; train into another directory"):
        train(tiny_corpus, config(), tmp_path / "model")


def test_an_infinite_gradient_leaves_the_weights_as_they_were(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("openwork.sparsity.Adam.gradient_rms", lambda optimizer: float("inf"))
    with pytest.raises(Diverged, match="are in the gradient"):
        train(tiny_corpus, config(), tmp_path / "model")
    assert not list((tmp_path / "model").glob("checkpoints/*"))


def test_counted_bigrams_are_log_probabilities(tiny_corpus):
    table = count_bigrams(tiny_corpus, 300, smoothing=0.1)
    torch.testing.assert_close(table.exp().sum(1), torch.ones(300))
    tokens = torch.from_numpy(tiny_corpus.train.window(0, len(tiny_corpus.train)))
    first = int(tokens[0])
    after = tokens[1:][tokens[:-1] == first]
    expected = (int((after == tokens[1]).sum()) + 0.1) / (len(after) + 0.1 * 300)
    assert float(table[first, tokens[1]].exp()) == pytest.approx(expected, rel=1e-5)


def test_what_does_not_fit_is_one_clear_line(tiny_corpus, tmp_path):
    with pytest.raises(UserError, match="has 280 tokens; set model.d_vocab=280"):
        train(
            tiny_corpus,
            replace(config(), model=ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=8, d_vocab=20)),
            tmp_path,
        )
    with pytest.raises(UserError, match="n_ctx|context"):
        too_long = ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=10**6, d_vocab=300)
        train(tiny_corpus, replace(config(), model=too_long), tmp_path)
    with pytest.raises(UserError, match="tokens is 0"):
        TrainConfig(tokens=0)
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU"):
            pick_device("cuda")


def test_a_model_trained_in_fast_mode_follows_its_weights(tiny_corpus, tmp_path):
    model, tokens = train(tiny_corpus, config("fast"), tmp_path / "m"), tiny_corpus.batch("validation", 0, 2, 7, 0)
    before = model.run(tokens, record=["0.mlp.resid_delta"])[1]["0.mlp.resid_delta"]
    with torch.no_grad():
        model.blocks[0].mlp.down.weight.mul_(2)
    after = model.run(tokens, record=["0.mlp.resid_delta"])[1]["0.mlp.resid_delta"]
    assert before.any() and not torch.equal(before, after)


def test_means_are_over_training_tokens(tiny_corpus):
    model = Transformer(config().model)
    n = 2
    batches = [tiny_corpus.batch("train", step, MEANS_BATCH // 8, 8, MEANS_SEED)[:, :-1] for step in range(n)]
    expected, found = mean_activations(model, batches), corpus_means(model, tiny_corpus, n * MEANS_BATCH)
    assert all(torch.equal(found[site], mean) for site, mean in expected.items())


def test_schedules_and_tokens_are_those_of_the_step(tiny_corpus, tmp_path):
    wanted = replace(config(), sparsity=SparsityConfig(density=1 / 8, anneal_start=0.1, anneal_end=0.9, floor=2))
    train(tiny_corpus, wanted, tmp_path / "m")
    for step, line in enumerate(read_metrics(tmp_path / "m")):
        density = density_at(step / 12, wanted.sparsity)
        assert (line["step"], line["tokens"], line["density"]) == (step + 1, 32 * (step + 1), density)
        rate = learning_rate_at(step / 12, wanted.learning_rate, wanted.warmup, density, wanted.sparsity)
        assert line["learning_rate"] == rate


def test_no_token_that_was_asked_for_is_left_out():
    assert replace(config(), tokens=1).n_steps == 1 and replace(config(), tokens=33).n_steps == 2


def test_the_last_step_is_validated_and_saved(tiny_corpus, tmp_path):
    train(tiny_corpus, replace(config(), tokens=5 * 32), tmp_path / "m")
    assert [line["step"] for line in read_metrics(tmp_path / "m") if "validation_loss" in line] == [4, 5]
    assert (tmp_path / "m" / "checkpoints" / "step-00000005.checkpoint").exists()


@pytest.mark.parametrize(("density", "kind"), [(1 / 8, "Weight-sparse"), (1, "Dense")])
def test_the_card_says_what_kind_of_model_it_is(tiny_corpus, tmp_path, density, kind):
    wanted = replace(config(), sparsity=SparsityConfig(density=density, floor=2), tokens=64)
    model = train(tiny_corpus, wanted, tmp_path / "m")
    card = (tmp_path / "m" / "README.md").read_text()
    assert card.startswith(f"# {kind} transformer, 1 layers, d_model 16\n")
    last = read_metrics(tmp_path / "m")[-1]
    assert f"| dead neurons | {last['dead_neurons']} of {model.config.d_mlp} |" in card
    assert f"| dead q/k channels | {last['dead_qk_channels']} of 16 |" in card


def test_validation_batches_hold_what_was_asked_for_or_all_there_is(tiny_corpus):
    there = len(tiny_corpus.validation)
    for asked, batches in ((1, 1), (96, 3), (10**9, there // 32)):
        assert len(validation_batches(tiny_corpus, asked, 8, 4, "cpu")) == batches


def test_a_model_names_the_corpus_that_it_learnt(tiny_corpus, tmp_path):
    train(tiny_corpus, replace(config(), tokens=64), tmp_path / "m")
    about = json.loads((tmp_path / "m" / "config.json").read_text())["about"]
    assert (about["corpus"], about["data"]) == (tiny_corpus.manifest.hash, tiny_corpus.manifest.source)
