"""The examples run, and what they read is what `model.run` records."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import openwork
from openwork.model import ModelConfig, Transformer

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # nnsight reads the source of what it traces
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def model(tiny_corpus, tmp_path):
    model = Transformer(ModelConfig(n_layers=2, d_model=16, d_head=4, n_ctx=32, d_vocab=280), seed=1)
    model.tokenizer = tiny_corpus.tokenizer
    openwork.save_model(model, tmp_path / "model")
    return model.eval().requires_grad_(False)


def test_nnsight_reads_and_changes_what_the_door_does(model, tmp_path, capsys):
    pytest.importorskip("nnsight")
    sites = example("nnsight_sites")
    tokens = torch.randint(0, 280, (2, 9), generator=torch.Generator().manual_seed(0))
    for kind in sites.SITES:
        recorded = model.run(tokens, record=[f"1.{kind}"])[1][f"1.{kind}"]
        torch.testing.assert_close(sites.read(model, tokens, f"1.{kind}"), recorded)
    neuron = int(model.run(tokens, record=["1.mlp.post_act"])[1]["1.mlp.post_act"].abs().sum((0, 1)).argmax())
    silent = torch.ones(model.config.d_mlp)
    silent[neuron] = 0
    expected = model.run(tokens, edit={"1.mlp.post_act": lambda x: x * silent})[0]
    torch.testing.assert_close(sites.without_neuron(model, tokens, 1, neuron), expected)
    assert not torch.allclose(expected, model(tokens))
    sites.main(str(tmp_path / "model"))
    assert "is strongest at the last token" in capsys.readouterr().out


def test_the_transformerlens_example_finds_a_head_that_looks_back(model, tmp_path, capsys):
    lens = example("transformerlens_cache")
    with torch.no_grad():  # head 0 of layer 0 gets a sink so strong that it looks nowhere
        model.blocks[0].attn.sink[0] = 50
    scores = lens.previous_token_heads(model, torch.randint(0, 280, (2, 9)))
    assert scores["0.attn.head0"] < 1e-6 < min(value for name, value in scores.items() if name != "0.attn.head0")
    assert len(scores) == 8
    lens.main(str(tmp_path / "model"))
    assert "0.mlp.post_act is blocks.0.mlp.hook_post" in capsys.readouterr().out
