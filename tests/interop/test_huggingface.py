"""Our models in `transformers`, its GPT-2 in ours, and openwork where `transformers` is not wanted."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import pytest
import torch

import openwork
from openwork.errors import UserError
from openwork.interop import huggingface
from openwork.interop.card import about_model
from openwork.interop.huggingface.export import fast_tokenizer
from openwork.model import ModelConfig, Transformer, all_sites, mean_activations
from tests.pruning.planted import PlantedTask

transformers = pytest.importorskip("transformers")


def random_model(tokenizer, **wiring) -> Transformer:
    sizes = {"n_layers": 2, "d_model": 16, "d_head": 4, "n_ctx": 32, "d_vocab": 280}
    model = Transformer(ModelConfig(**{**sizes, **wiring}), seed=1)
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.3)
        model.blocks[0].mlp.up.weight[:, ::2] = 0
    model.tokenizer = tokenizer
    return model.eval().requires_grad_(False)


WIRINGS = [
    {"bigram": "learned"},
    {"positions": "learned", "sink": False, "tied": True, "norm": "layer"},
    {"positions": "concatenated", "d_position": 5, "bias": False},
]


@pytest.fixture(params=WIRINGS, ids=lambda wiring: "-".join(wiring))
def exported(request, tiny_corpus, tmp_path):
    model = random_model(tiny_corpus.tokenizer, **request.param)
    return model, huggingface.export(
        model, tmp_path / "exported", about={"licence": "Apache-2.0", "data": "little files"}
    )


def test_an_export_opens_with_the_auto_classes_and_has_the_same_logits(exported):
    model, directory = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    assert type(theirs).__module__.startswith("openwork") and "auto_map" not in theirs.config.to_dict()
    tokens = torch.randint(0, 280, (3, 20), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(theirs(tokens).logits, model(tokens))
    loss = torch.nn.functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(theirs(tokens, labels=tokens).loss, loss)
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    text = "x1 = 'one' + \"3\"\n"
    assert tokenizer(text).input_ids == [model.tokenizer.end_of_text, *model.tokenizer.encode(text)]
    assert tokenizer.decode(tokenizer(text).input_ids, skip_special_tokens=True) == text


def test_the_cache_changes_nothing(exported):
    model, directory = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokens = torch.randint(0, 280, (2, 20), generator=torch.Generator().manual_seed(0))
    first = theirs(tokens[:, :9], use_cache=True)
    then = theirs(tokens[:, 9:13], cache=first.cache, use_cache=True)
    last = theirs(tokens[:, 13:], cache=then.cache, use_cache=True)
    pieces = torch.cat([first.logits, then.logits, last.logits], 1)
    torch.testing.assert_close(pieces, model(tokens), atol=1e-5, rtol=1e-4)
    assert last.cache.get_seq_length() == 20
    torch.testing.assert_close(theirs(tokens, logits_to_keep=2).logits, model(tokens)[:, -2:])
    torch.testing.assert_close(theirs(tokens, logits_to_keep=torch.tensor([3])).logits, model(tokens)[:, [3]])


def test_the_cache_goes_by_its_older_name_too(exported):
    model, directory = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokens = torch.randint(0, 280, (2, 20), generator=torch.Generator().manual_seed(0))
    first = theirs(tokens[:, :9], use_cache=True)
    then = theirs(tokens[:, 9:], past_key_values=first.cache)
    torch.testing.assert_close(then.logits, model(tokens)[:, 9:], atol=1e-5, rtol=1e-4)


def test_padded_prompts_get_the_logits_that_they_have_alone(exported):
    model, directory = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokens = torch.randint(0, 280, (2, 10), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0
    padded = theirs(tokens, attention_mask=mask).logits
    torch.testing.assert_close(padded[0, 4:], model(tokens[:1, 4:])[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(padded[1], model(tokens[1:])[0], atol=1e-5, rtol=1e-4)


def test_the_pipeline_writes_what_the_model_writes(exported):
    model, directory = exported
    pipe = transformers.pipeline("text-generation", model=str(directory))
    for prompt in ("x1 = 'one'", "x"):
        expected = model.generate(prompt, 8)
        assert pipe(prompt, max_new_tokens=8, do_sample=False)[0]["generated_text"] == expected
    assert len(pipe("x", return_tensors=True)[0]["generated_token_ids"]) <= model.config.n_ctx  # no length asked for
    both = pipe(["x1 = 'one'", "x"], max_new_tokens=8, do_sample=False, batch_size=2)
    assert [out[0]["generated_text"] for out in both] == [model.generate(p, 8) for p in ("x1 = 'one'", "x")]


def test_the_export_is_whole_and_has_a_card(exported, tmp_path):
    model, directory = exported
    card = (directory / "README.md").read_text()
    assert "license: apache-2.0" in card and "little files" in card and model.hash in card
    weights = [parameter for name, parameter in model.named_parameters() if name != "bigram"]
    assert f"| parameters | {sum(weight.numel() for weight in weights):,} |" in card
    assert f"| non-zero parameters | {sum(int((weight != 0).sum()) for weight in weights):,} |" in card
    assert {path.name for path in directory.iterdir()} >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not list(tmp_path.glob(".exported*"))
    with pytest.raises(UserError, match="exists and is not empty"):
        huggingface.export(model, directory)
    again = transformers.AutoModelForCausalLM.from_pretrained(directory)
    again.save_pretrained(tmp_path / "again")
    tokens = torch.arange(20)[None]
    reloaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again")
    assert torch.equal(reloaded(tokens).logits, again(tokens).logits)


@pytest.mark.slow
@pytest.mark.parametrize("order", ["openwork, transformers", "transformers, openwork"])
def test_registration_does_not_depend_on_who_is_imported_first(order, tmp_path):
    huggingface.export(random_model(None), tmp_path / "exported")
    code = f"""import {order}
import sys
assert "transformers.models.auto.modeling_auto" not in sys.modules
print(type(transformers.AutoModelForCausalLM.from_pretrained({str(tmp_path / "exported")!r})).__name__)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "OpenworkForCausalLM\n", done.stderr


def test_openwork_does_not_import_transformers_and_says_what_to_install_without_it(tmp_path):
    code = f"""import sys
import openwork
assert "transformers" not in sys.modules
sys.modules["transformers"] = None
try:
    openwork.interop.huggingface.export(None, {str(tmp_path / "out")!r})
except openwork.UserError as error:
    print(error)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'openwork[huggingface]'" in done.stdout, done.stderr


def gpt2(**options):
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "n_positions": 32, "vocab_size": 20}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **options})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize(
    "options", [{}, {"activation_function": "relu", "n_inner": 24}, {"tie_word_embeddings": False}]
)
def test_a_gpt2_model_behind_our_door_is_the_same_model(options, tmp_path):
    theirs = gpt2(**options)
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(0, 20, (2, 9))
    expected = theirs(tokens, output_hidden_states=True)
    for model in (huggingface.load_gpt2(theirs), huggingface.load_gpt2(tmp_path)):
        assert model.tokenizer is None  # none lies there, of which the library makes one without tokens
        logits, acts = model.run(tokens, record=all_sites(model.config))
        torch.testing.assert_close(logits, expected.logits, atol=1e-4, rtol=1e-4)
        for layer in range(2):
            torch.testing.assert_close(acts[f"{layer}.resid_in"], expected.hidden_states[layer], atol=1e-4, rtol=1e-4)


def test_a_gpt2_model_can_be_pruned_and_verified_and_saved(tmp_path):
    model = huggingface.load_gpt2(gpt2())
    task = PlantedTask()
    model.means = mean_activations(model, [task.pairs("train", 32).flat])
    few = openwork.PruneConfig(
        target=0.6, steps=4, pairs=4, fixed_pairs=8, validation_pairs=8, candidates=16, k_coefs=(1e-3, 1e-2)
    )
    circuit = openwork.prune(model, task, config=few)
    assert circuit.loss(task) == pytest.approx(circuit.losses["circuit"], abs=1e-6)
    assert openwork.verify(circuit, task).checks
    openwork.save_model(model, tmp_path)
    assert openwork.load_model(tmp_path).hash == model.hash


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"activation_function": "silu"}, "activation_function 'silu'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx True"),
    ],
)
def test_a_gpt2_with_other_options_is_refused(options, says):
    with pytest.raises(UserError, match=says):
        huggingface.load_gpt2(gpt2(**options))


def test_weights_of_other_sizes_are_told_in_one_line(tmp_path, capfd):
    gpt2().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "n_embd": 2 * config["n_embd"]}))
    capfd.readouterr()
    before = transformers.utils.logging.get_verbosity()
    with pytest.raises(UserError, match="other sizes than its config.json says"):
        huggingface.load_gpt2(tmp_path)
    assert capfd.readouterr().err == ""
    assert transformers.utils.logging.get_verbosity() == before
    assert transformers.utils.logging.is_progress_bar_enabled()


def test_what_is_no_gpt2_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="type 'bert'; only gpt2"):
        huggingface.load_gpt2(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 100)
    with pytest.raises(UserError, match="cannot open the GPT-2 model"):
        huggingface.load_gpt2(tmp_path)


def test_a_last_line_of_metrics_that_a_kill_cut_short_is_passed_over(tmp_path):
    (tmp_path / "config.json").write_text('{"about": {"data": "little files"}}')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "tokens": 8}\n{"step": 2, "tok')
    assert about_model(tmp_path) == {"data": "little files", "measured": {"tokens": 8}}


def test_labels_that_are_masked_do_not_count_and_positions_can_be_given(exported):
    model, directory = exported
    theirs = transformers.AutoModelForCausalLM.from_pretrained(directory)
    tokens = torch.randint(0, 280, (2, 10), generator=torch.Generator().manual_seed(0))
    labels = tokens.clone()
    labels[:, :4] = -100
    loss = torch.nn.functional.cross_entropy(model(tokens)[:, 3:-1].flatten(0, 1), tokens[:, 4:].flatten())
    torch.testing.assert_close(theirs(tokens, labels=labels).loss, loss)
    shifted = theirs(tokens, position_ids=torch.arange(3, 13)).logits
    torch.testing.assert_close(shifted, model.run(tokens, positions=torch.arange(3, 13))[0])


def test_an_export_is_for_all_to_read_and_knows_its_end_and_its_length(tiny_corpus, tmp_path):
    model = random_model(tiny_corpus.tokenizer)
    directory = huggingface.export(model, tmp_path / "e")
    assert directory.stat().st_mode & 0o777 == 0o755
    config = transformers.AutoConfig.from_pretrained(directory)
    assert {config.bos_token_id, config.eos_token_id, config.pad_token_id} == {model.tokenizer.end_of_text}
    assert transformers.AutoTokenizer.from_pretrained(directory).model_max_length == 32


def test_an_export_that_fails_leaves_nothing(tmp_path, monkeypatch):
    module = importlib.import_module("openwork.interop.huggingface.export")
    monkeypatch.setattr(module, "model_card", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        huggingface.export(random_model(None), tmp_path / "e")
    assert not list(tmp_path.iterdir())


def test_a_gpt2_model_comes_with_its_tokenizer_where_it_fits(tiny_corpus, tmp_path):
    for size in (280, 20):
        gpt2(vocab_size=size).save_pretrained(tmp_path / str(size))
        fast_tokenizer(tiny_corpus.tokenizer, 32).save_pretrained(tmp_path / str(size))
    text = "x1 = 'one'\n"
    tokenizer = huggingface.load_gpt2(tmp_path / "280").tokenizer
    assert tokenizer is not None and tokenizer.encode(text) == tiny_corpus.tokenizer.encode(text)
    assert huggingface.load_gpt2(tmp_path / "20").tokenizer is None


def test_a_gpt2_model_that_is_not_all_there_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    gpt2().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    save_file({name: x for name, x in whole.items() if "h.1.mlp.c_fc" not in name}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"has missing keys, such as transformer\.h\.1\.mlp\.c_fc"):
        huggingface.load_gpt2(tmp_path)
    save_file({name: x * float("nan") if "wpe" in name else x for name, x in whole.items()}, path, {"format": "pt"})
    with pytest.raises(UserError, match=r"has transformer\.wpe\.weight with values that are no finite numbers"):
        huggingface.load_gpt2(tmp_path)
    torch.save(whole, tmp_path / "pytorch_model.bin")
    path.unlink()
    with pytest.raises(UserError, match="cannot open the GPT-2 model"):
        huggingface.load_gpt2(tmp_path)


@pytest.mark.parametrize("option", [{"layer_norm_epsilon": 1e-6}, {"scale_attn_weights": False}])
def test_a_gpt2_that_computes_otherwise_is_refused(option):
    with pytest.raises(UserError, match=f"this GPT-2 has {next(iter(option))}"):
        huggingface.load_gpt2(gpt2(**option))
