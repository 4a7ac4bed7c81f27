"""The release's models: golden activations, every option against a forward pass in plain algebra, broken files."""

from __future__ import annotations

import itertools
import json
import logging
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from openwork.errors import UserError
from openwork.interop import openai
from openwork.models import load_model, save_model
from tests.interop.releases import ALL_SITES, SMALL, forward, random_state, write

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
def test_golden_checkpoints_give_their_logits_loss_and_activations(name, tmp_path):
    expected = torch.load(GOLDEN / name / "expected.pt", weights_only=True)
    model = openai.load(GOLDEN / name)
    save_model(model, tmp_path / "model")
    for one in (model, load_model(tmp_path / "model")):
        logits, acts = one.run(expected["idx"], record=list(expected["activations"]))
        torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)
        loss = F.cross_entropy(logits.flatten(0, 1), expected["targets"].flatten())
        torch.testing.assert_close(loss, expected["loss"], atol=1e-4, rtol=0)
        for site, x in expected["activations"].items():
            torch.testing.assert_close(acts[site], x, atol=1e-4, rtol=0, msg=lambda m, site=site: f"{site}: {m}")


def test_a_zero_with_a_sign_survives_saving(tmp_path):
    model = openai.load(GOLDEN / "rms_bigram")
    with torch.no_grad():
        model.blocks[0].mlp.up.weight.mul_(0).neg_()
    save_model(model, tmp_path)
    assert load_model(tmp_path).hash == model.hash


POSITIONS = {
    "added": {},
    "concatenated": {"d_pos_emb": 6},
    "sinusoidal": {"d_pos_emb": 6, "sinusoidal_cat_pos_emb": True},
}
SPARSE = {
    "dense": {"afrac": None},
    "default sites": {"afrac": 0.25},
    "all sites": {"afrac": 0.35, "afrac_loctypes": ALL_SITES},
    "neurons": {"afrac": 0.5, "afrac_loctypes": "mlp_neuron,attn_q"},
}
TABLE = {
    "no table": {},
    "buffer": {"enable_bigram_table": True},
    "parameter": {"enable_bigram_table": True, "learnable_bigram_table": True},
}
BIASES = {"biases": {}, "no linear": {"bias": False}, "no norm": {"ln_bias": False}}


@pytest.mark.parametrize("sink", [False, True], ids=["no sink", "sink"])
@pytest.mark.parametrize("rms", [False, True], ids=["layer norm", "rms norm"])
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("sparse", SPARSE)
def test_every_combination_of_options_equals_plain_algebra(tmp_path, sink, rms, positions, sparse):
    tokens = torch.randint(0, SMALL["vocab_size"], (2, 7), generator=torch.Generator().manual_seed(3))
    for table, relu, tied, biases in itertools.product(TABLE, (False, True), (False, True), BIASES):
        config = {
            "n_layer": 1,
            "sink": sink,
            "rms_norm": rms,
            "tied_unembed": tied,
            "residual_activation_type": "relu" if relu else "identity",
            "activation_type": "relu" if tied else "gelu",
            **POSITIONS[positions],
            **SPARSE[sparse],
            **TABLE[table],
            **BIASES[biases],
        }
        state = write(tmp_path, config)
        model = openai.load(tmp_path)
        logits, acts = forward(config, state, tokens)
        ours, recorded = model.run(tokens, record=list(acts))
        torch.testing.assert_close(ours.double(), logits, atol=1e-4, rtol=1e-4, msg=lambda m, c=config: f"{c}: {m}")
        for site, x in acts.items():
            torch.testing.assert_close(recorded[site].double(), x, atol=1e-4, rtol=1e-4)
        assert model.config.bigram == {"no table": "off", "buffer": "counted", "parameter": "learned"}[table]


def test_old_names_unknown_keys_and_half_precision(tmp_path, caplog):
    config = {"rms_norm": True, "tied_unembed": False, "afrac": 0.25}
    state = {name: tensor.half() for name, tensor in random_state(config).items()}
    old = {**config, "n_mlp": SMALL["d_mlp"], "d_mlp": None, "n_embd": SMALL["d_model"], "bigram_table_rank": None}
    write(tmp_path, {**old, "use_tied_aux_matrix": False, "mup": False, "pfrac": 0.1, "colour": "red"}, state)
    with caplog.at_level(logging.WARNING, "openwork"):
        model = openai.load(tmp_path)
    assert "colour" in caplog.text and "pfrac" not in caplog.text and "mup" not in caplog.text
    tokens = torch.randint(0, 17, (1, 8))
    torch.testing.assert_close(model(tokens).double(), forward(config, state, tokens)[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("use_tied_aux_matrix", True, "compute something else"),
        ("scale_invariance", True, "compute something else"),
        ("activation_type", "swiglu", "known are gelu, relu"),
        ("afrac_loctypes", "attn_in,elsewhere", "elsewhere"),
        ("afrac", 0.01, "keeps none of the 12 channels of attn.act_in"),
        ("afrac", 3, r"\(0, 1\]"),
        ("n_layer", 10**12, "whole number"),
        ("n_layer", 10**6, "1000000 layers"),
        ("vocab_size", "many", "whole number"),
        ("vocab_size", 10**7, "asks for"),
        ("sink", "yes", "true or false"),
    ],
)
def test_a_config_that_cannot_be_run_is_named(tmp_path, key, value, says):
    write(tmp_path, {"afrac": 0.25})
    content = json.loads((tmp_path / "beeg_config.json").read_text())
    (tmp_path / "beeg_config.json").write_text(json.dumps({**content, key: value}))
    with pytest.raises(UserError, match=says):
        openai.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("transformer.h.0.ln_1.weight"), r"lacks transformer\.h\.0\.ln_1\.weight"),
        (lambda s: s.update(aux=torch.zeros(2)), "has aux, which its config does not name"),
        (lambda s: s.update({"transformer.ln_f.weight": torch.zeros(3)}), r"of shape \(3,\)"),
        (lambda s: s["transformer.wpe.weight"].fill_(float("nan")), "no finite numbers"),
        (lambda s: s.update({"transformer.ln_f.weight": torch.ones(12, dtype=torch.long)}), "no finite numbers"),
        (
            lambda s: s.update({"transformer.ln_f.weight": torch.ones(12).double() * 1e300}),
            "no finite numbers",
        ),
        (lambda s: s.update({"lm_head.weight": torch.zeros(17, 12)}), "unlike its embedding"),
        (lambda s: s.update({"transformer.wte.weight": torch.zeros(1).expand(17, 12)}), "needs 816 bytes"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, change, says):
    state = random_state({})
    change(state)
    write(tmp_path, {}, state)
    with pytest.raises(UserError, match=says) as raised:
        openai.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_a_tied_matrix_need_be_there_once(tmp_path):
    state = random_state({})
    tokens = torch.tensor([[1, 2, 3]])
    for name in ("lm_head.weight", "transformer.wte.weight"):
        write(tmp_path, {}, {key: tensor for key, tensor in state.items() if key != name})
        torch.testing.assert_close(
            openai.load(tmp_path)(tokens).double(), forward({}, state, tokens)[0], atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize(
    "key",
    [
        *("use_tied_aux_matrix", "unembed_rank", "mup", "mup_width_multiplier", "scale_invariance"),
        *("rtopk", "afrac_approx", "enable_fp8_linear"),
    ],
)
def test_every_key_that_decides_must_be_off(tmp_path, key):
    write(tmp_path, {key: 1})
    with pytest.raises(UserError, match=f"has {key} '1'; .*compute something else"):
        openai.load(tmp_path)


def test_heads_share_the_width_where_their_size_is_left_out(tmp_path):
    state = write(tmp_path, {"n_head": 3})
    content = json.loads((tmp_path / "beeg_config.json").read_text())
    (tmp_path / "beeg_config.json").write_text(json.dumps({**content, "d_head": None}))
    assert openai.load(tmp_path).config.d_head == 4 == len(state["transformer.h.0.attn.c_attn.weight"]) / 9


def test_a_size_of_zero_is_named_and_new_names_outweigh_old_ones(tmp_path):
    write(tmp_path, {"d_mlp": 0}, random_state({}))
    with pytest.raises(UserError, match="has d_mlp '0'; it must be a whole number from 1"):
        openai.load(tmp_path)
    write(tmp_path, {"n_mlp": 99})
    assert openai.load(tmp_path).config.d_mlp == 10


def test_what_older_releases_store_changes_nothing(tmp_path):
    """One sink for all heads, causal masks, and zeros with a sign."""
    state = random_state({"sink": True})
    for layer in range(2):
        state[f"transformer.h.{layer}.attn.attn_imp.sink_logit"] = torch.tensor([0.5 + layer])
        state[f"transformer.h.{layer}.attn.bias"] = torch.ones(1, 1, 8, 8).tril()
    state["transformer.h.0.mlp.c_fc.weight"] *= torch.zeros(10, 12) - 0.0
    write(tmp_path, {"sink": True}, state)
    model = openai.load(tmp_path)
    assert [block.attn.sink.tolist() for block in model.blocks] == [[0.5, 0.5], [1.5, 1.5]]
    assert not model.blocks[0].mlp.up.weight.signbit().any()
