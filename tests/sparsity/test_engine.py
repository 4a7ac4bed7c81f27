"""Sparse layers are linear layers: same logits, same gradients, same names, and they see when a weight changes."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from openwork import kernels
from openwork.kernels import abs_topk, gelu_abs_topk, library
from openwork.model import ModelConfig, Transformer
from openwork.models import load_model, save_model
from openwork.sparsity import SparseLinear, SparsityConfig, project_, quotas, use_sparse_layers

needs_kernels = pytest.mark.skipif(not kernels.native, reason="the kernels were not compiled here")


def sparse_model(tied: bool = False, d_model: int = 32, density: float = 1 / 32, n_ctx: int = 20) -> Transformer:
    model = Transformer(ModelConfig(n_layers=2, d_model=d_model, d_vocab=90, n_ctx=n_ctx, tied=tied), seed=1)
    project_(quotas(model, SparsityConfig(density=density, floor=0), density))
    return model


def gradients(model: Transformer, tokens: torch.Tensor) -> dict[str, torch.Tensor]:
    loss = torch.nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    named = dict(model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


@needs_kernels
@pytest.mark.parametrize("tied", [False, True])
def test_logits_and_all_gradients_are_those_of_dense_layers(tied):
    dense = sparse_model(tied)
    sparse = copy.deepcopy(dense)
    layers = use_sparse_layers(sparse)
    tokens = torch.randint(0, 90, (3, 21), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sparse(tokens[:, :-1]), dense(tokens[:, :-1]), rtol=0, atol=1e-4)
    assert all(layer.compressed() is not None for layer in layers)
    ours, theirs = gradients(sparse, tokens), gradients(dense, tokens)
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5)
    assert sparse.hash == dense.hash and list(sparse.state_dict()) == list(dense.state_dict())


@needs_kernels
@pytest.mark.parametrize("density", [1 / 32, 1])
def test_zero_activations_are_skipped_and_gradients_stay_what_they_were(density, monkeypatch):
    """Of dense weights all three products, but for what AbsTopK is neither before nor after; of sparse ones dW."""
    dense = sparse_model(d_model=160, density=density)
    sparse, shapes, product = copy.deepcopy(dense), [], library.skipping_product
    use_sparse_layers(sparse)
    monkeypatch.setattr(library, "skipping_product", lambda a, *others: shapes.append(a.shape) or product(a, *others))
    tokens = torch.randint(0, 90, (20, 21), generator=torch.Generator().manual_seed(0))
    ours = gradients(sparse, tokens)
    a_layer = 6 if density < 1 else 17  # q, k, v, out, up, down; out reads what attention averages, which is not sparse
    assert len(shapes) == 2 * a_layer
    for name, gradient in gradients(dense, tokens).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("density", [1 / 16, 1])
def test_attention_skips_channels_and_gradients_stay_what_they_were(density, monkeypatch):
    """At 1/16 AbsTopK of many a key has fewer channels to keep than it may, so that zeros are kept and learn too."""
    model, called, call = sparse_model(density=density, n_ctx=150), [], library.call
    use_sparse_layers(model)
    monkeypatch.setattr(library, "call", lambda name, *others: called.append(name) or call(name, *others))
    tokens = torch.randint(0, 90, (2, 151), generator=torch.Generator().manual_seed(0))
    ours = gradients(model, tokens)
    assert called.count("selected_attention") == called.count("selected_attention_backward") == 2
    monkeypatch.setattr("openwork.kernels.attention._skips", lambda *tensors: False)
    for name, gradient in gradients(model, tokens).items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-6)


@needs_kernels
def test_who_watches_keys_and_values_sees_all_their_gradients(monkeypatch):
    model, seen = sparse_model(density=1 / 4, n_ctx=150), []
    use_sparse_layers(model)
    tokens = torch.randint(0, 90, (2, 150), generator=torch.Generator().manual_seed(0))
    for skips in (True, False):
        if not skips:
            monkeypatch.setattr("openwork.kernels.attention._skips", lambda *tensors: False)
        logits, sites = model.run(tokens, record=["0.attn.k", "0.attn.v"])
        seen.append(torch.autograd.grad(logits.square().mean(), list(sites.values())))
        for site, gradient in zip(sites.values(), seen[-1], strict=True):
            assert gradient[site == 0].any()
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-7)


@needs_kernels
@pytest.mark.parametrize("other", ["a dense weight", "a layer of another kind", "not every site"])
def test_query_key_and_value_need_not_go_together(other):
    model = sparse_model()
    attention, tokens = model.blocks[0].attn, torch.randint(0, 90, (3, 20), generator=torch.Generator().manual_seed(0))
    if other == "a dense weight":
        torch.nn.init.normal_(attention.k.weight, std=0.2)
    elif other == "not every site":
        attention.sparse.sites -= {"attn.k"}
    dense = copy.deepcopy(model)
    use_sparse_layers(model)
    if other == "a layer of another kind":
        attention.k = dense.blocks[0].attn.k
    torch.testing.assert_close(model(tokens), dense(tokens), rtol=0, atol=1e-4)


@needs_kernels
def test_hooks_see_every_module_and_the_outputs_of_that_module_alone():
    dense = sparse_model()
    sparse = copy.deepcopy(dense)
    use_sparse_layers(sparse)
    tokens, seen = torch.randint(0, 90, (3, 20), generator=torch.Generator().manual_seed(0)), {}
    for model in (dense, sparse):
        seen[model] = {}
        for name, module in model.named_modules():
            if not list(module.children()):
                module.register_forward_hook(lambda _, __, y, name=name, of=seen[model]: of.update({name: y}))
        model(tokens)
    assert len(seen[dense]) == 19 and list(seen[sparse]) == list(seen[dense])
    for name, y in seen[dense].items():
        torch.testing.assert_close(seen[sparse][name], y, rtol=0, atol=1e-4)
    called: list[torch.nn.Module] = []
    use_sparse_layers(model := sparse_model())
    with torch.nn.modules.module.register_module_forward_hook(lambda module, _, __: called.append(module)):
        model(tokens)
    assert {id(module) for module in called} == {id(module) for module in model.modules()} - {id(model.blocks)}


@needs_kernels
def test_a_layer_sees_that_its_weight_has_changed():
    linear = torch.nn.Linear(40, 30)
    layer, x = SparseLinear(linear), torch.randn(5, 40)
    assert layer.compressed() is None
    torch.testing.assert_close(layer(x), linear(x))
    kernels.keep_topk_(linear.weight, 50)
    kept = layer.compressed()
    assert kept is not None and torch.equal(kept.flat, linear.weight.flatten().nonzero()[:, 0])
    torch.testing.assert_close(layer(x), linear(x))
    with torch.no_grad():
        linear.weight[3, 7] = 5.0
    torch.testing.assert_close(layer(x), linear(x))
    layer.load_state_dict(torch.nn.Linear(40, 30).state_dict())
    assert layer.compressed() is None


@needs_kernels
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_a_layer_sees_the_steps_of_fused_optimizers(kind):
    linear, x = nn.Linear(40, 30), torch.randn(5, 40)
    kernels.keep_topk_(linear.weight, 50)
    layer = SparseLinear(linear)
    optimizer = getattr(torch.optim, kind)(layer.parameters(), lr=0.5, fused=True)
    layer(x).square().sum().backward()
    linear.weight.grad *= linear.weight != 0  # so that it stays sparse
    optimizer.step()
    assert layer.compressed() is not None
    torch.testing.assert_close(layer(x), nn.functional.linear(x, linear.weight, linear.bias))


@torch.no_grad()
def test_a_token_follows_what_is_asked_of_a_layer_and_its_bias():
    linear = nn.Linear(40, 30)
    linear.weight.data *= torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) < 0.1
    layer, x = SparseLinear(linear), torch.randn(1, 1, 40)
    for k, gelu in ((5, False), (5, True), (0, False), (7, False)):
        y = linear(x)
        want = y if k == 0 else gelu_abs_topk(y, k) if gelu else abs_topk(y, k)
        torch.testing.assert_close(layer.abs_topk(x, k, gelu), want)
    linear.bias = layer.bias = nn.Parameter(torch.randn(30))  # what was asked for last, of another bias
    torch.testing.assert_close(layer.abs_topk(x, 7, False), abs_topk(linear(x), 7))
    linear.weight.mul_(2)  # and of another weight, which the layer shares
    torch.testing.assert_close(layer.abs_topk(x, 7, False), abs_topk(linear(x), 7))
    layer.bias = None
    torch.testing.assert_close(layer.abs_topk(x, 7, False), abs_topk(x @ linear.weight.T, 7))


@needs_kernels
def test_a_loaded_model_keeps_its_weights_sparse(tmp_path):
    model = sparse_model()
    save_model(model, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    tokens = torch.randint(0, 90, (2, 20))
    torch.testing.assert_close(loaded(tokens), model(tokens), rtol=0, atol=1e-4)
    with torch.no_grad():
        cache = loaded.new_cache()
        one_by_one = torch.cat([loaded.extend(tokens[:1, t : t + 1], cache) for t in range(20)], dim=1)
    torch.testing.assert_close(one_by_one, model(tokens[:1]), rtol=0, atol=1e-4)
    layers = [module for module in loaded.modules() if isinstance(module, torch.nn.Linear)]
    assert len(layers) == 13 and all(isinstance(layer, SparseLinear) and layer.compressed() for layer in layers)


def test_a_dense_model_and_other_types_stay_dense():
    model = Transformer(ModelConfig(n_layers=1, d_model=16, d_vocab=40, n_ctx=8))
    layers = use_sparse_layers(model)
    assert len(layers) == 7 and all(layer.compressed() is None for layer in layers)
    assert use_sparse_layers(model) == layers
    double = use_sparse_layers(sparse_model().double())
    assert all(layer.compressed() is None for layer in double)


@torch.no_grad()
def test_weights_that_a_run_brings_are_never_taken_for_those_of_an_earlier_run():
    """Each lives where the last one lay, so that an address tells nothing."""
    linear = torch.nn.Linear(64, 64)
    layer, x = SparseLinear(linear), torch.randn(32, 64)
    for i in range(20):
        weight = torch.zeros(64, 64)
        weight[i % 64] = float(i + 1)
        found = torch.func.functional_call(layer, {"weight": weight}, x)
        wanted = torch.nn.functional.linear(x, weight, linear.bias)
        torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-5)  # another's weights are off by 1 and more
        del weight
    torch.testing.assert_close(layer(x), linear(x))


@needs_kernels
def test_in_inference_mode_a_layer_follows_weights_that_it_brings_and_that_change():
    model, tokens = sparse_model().eval(), torch.randint(0, 90, (2, 20))
    use_sparse_layers(model)
    with torch.inference_mode():
        brought = {"blocks.0.mlp.down.weight": model.blocks[0].mlp.down.weight * 3}
        found = model.run(tokens, weights=brought)[0]
        brought["blocks.0.mlp.down.weight"].mul_(0)
        changed = model.run(tokens, weights=brought)[0]
    with torch.no_grad():
        model.blocks[0].mlp.down.weight.mul_(3)
        torch.testing.assert_close(found.clone(), model(tokens), atol=1e-5, rtol=1e-5)
        model.blocks[0].mlp.down.weight.mul_(0)
        torch.testing.assert_close(changed.clone(), model(tokens), atol=1e-5, rtol=1e-5)


@needs_kernels
def test_a_layer_holds_no_graph_of_weights_that_a_run_brings():
    model, tokens, gate = sparse_model(), torch.randint(0, 90, (2, 20)), torch.ones(1, requires_grad=True)
    use_sparse_layers(model)
    want = model(tokens)
    brought = {name: p * (2 * gate) for name, p in model.named_parameters() if "mlp.down" in name}
    alive = [weakref.ref(x) for x in brought.values()]
    model.run(tokens, weights=brought)[0].sum().backward()
    with torch.no_grad():
        twice = [model.run(tokens[:1, :1], weights=brought)[0] for _ in range(2)]
    assert torch.equal(*twice) and not torch.equal(twice[0], want[:1, :1])
    del brought
    assert not any(x() is not None for x in alive)
    assert torch.equal(copy.deepcopy(model)(tokens), want) and torch.equal(model(tokens), want)


@needs_kernels
def test_a_model_that_ran_in_inference_mode_can_be_trained():
    model, tokens = sparse_model(), torch.randint(0, 90, (2, 21))
    use_sparse_layers(model)
    with torch.inference_mode():
        model(tokens[:, :20])
        model.extend(tokens[:1, :1], model.new_cache())
    of_one_that_did_not = gradients(copy.deepcopy(model), tokens)
    for name, gradient in gradients(model, tokens).items():
        assert torch.equal(gradient, of_one_that_did_not[name])


def test_edits_of_another_shape_are_refused_and_those_without_memory_of_their_own_are_not():
    tokens = torch.randint(0, 90, (8, 160))
    for density, layers in ((1 / 32, lambda model: None), (1 / 32, use_sparse_layers), (1, use_sparse_layers)):
        model = sparse_model(d_model=64, n_ctx=160, density=density).eval()
        layers(model)
        for site in ("0.mlp.post_act", "0.attn.q"):
            with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
                model.run(tokens, edit={site: lambda x: x[..., :16].clone()})
        with torch.no_grad(), pytest.raises((ValueError, RuntimeError)):
            model.run(tokens, edit={"0.attn.v": lambda x: x[:1].clone()})
        ablated = {
            of: model.run(tokens, edit={"0.mlp.post_act": lambda x, of=of: of(torch.zeros(x.shape[-1]), x)})[0].detach()
            for of in (torch.Tensor.expand_as, lambda zeros, x: zeros.repeat(*x.shape[:-1], 1))
        }
        torch.testing.assert_close(*ablated.values())


def test_a_model_with_sparse_layers_compiles_as_a_whole():
    model, tokens = sparse_model(n_ctx=8), torch.randint(0, 90, (2, 8))
    use_sparse_layers(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), model(tokens), atol=1e-5, rtol=1e-5)
        model.blocks[0].mlp.down.weight.mul_(3)
        torch.testing.assert_close(compiled(tokens), model(tokens), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_model_has_the_same_gradients(strict):
    model, tokens = sparse_model(), torch.randint(0, 90, (3, 20))
    use_sparse_layers(model)
    exported = torch.export.export(model, (tokens,), strict=strict).module()
    assert set(dict(exported.named_parameters())) == set(dict(model.named_parameters()))
    found, want = [], []
    for of, gradients in ((exported, found), (model, want)):
        parameters = [of.get_parameter(name) for name, _ in model.named_parameters()]
        gradients += torch.autograd.grad(of(tokens).square().mean(), parameters)
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5)


def test_a_dispatch_mode_sees_operators():
    model, generator = sparse_model(), torch.Generator().manual_seed(0)
    use_sparse_layers(model)
    tokens, others = (torch.randint(0, 90, (3, 21), generator=generator) for _ in range(2))
    traced = make_fx(lambda tokens: list(gradients(model, tokens).values()))(tokens)
    torch.testing.assert_close(traced(others), list(gradients(model, others).values()), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        traced = make_fx(lambda tokens: model(tokens[:, :20]))(tokens)
        torch.testing.assert_close(traced(others), model(others[:, :20]), rtol=1e-4, atol=1e-5)


def test_fake_tensors_reach_no_kernel():
    model = sparse_model()
    use_sparse_layers(model)
    for allowed in (torch.no_grad, torch.enable_grad):
        with FakeTensorMode(allow_non_fake_inputs=True), allowed():
            logits, x = model(torch.zeros(3, 20, dtype=torch.int64)), torch.randn(3, 9)
            kernels.keep_topk_(x, 5)
            kernels.adam_step_(x, x, x, x, n=1, rate=0.1, betas=(0.9, 0.9), eps=0.1)
        with allowed():  # it stays fake
            assert type(logits) is type(kernels.gelu(logits)) is type(abs_topk(x, 2)) is FakeTensor
        assert logits.shape == (3, 20, 90)


def test_no_tokens_give_no_logits():
    assert sparse_model()(torch.zeros(1, 0, dtype=torch.long)).shape == (1, 0, 90)
