"""The model against an independent forward pass in plain tensor algebra, and its one door for activations."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.model import (
    NODE_SITES,
    ModelConfig,
    Transformer,
    all_sites,
    mean_activations,
    node_name,
    node_sites,
    parse_node,
)
from openwork.model.size import n_weights

SMALL = {"n_layers": 2, "d_model": 16, "d_head": 4, "n_ctx": 12, "d_vocab": 23, "d_position": 4}


def random_model(**options) -> Transformer:
    model = Transformer(ModelConfig(**{**SMALL, **options}), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.4, generator=generator)
    return model.eval()


def keep_largest(x: Tensor, fraction: float) -> Tensor:
    k = max(1, int(x.shape[-1] * fraction))
    chosen = x.abs().topk(k, -1).indices
    return torch.zeros_like(x).scatter(-1, chosen, x.gather(-1, chosen))


def reference(model: Transformer, tokens: Tensor) -> Tensor:
    """Logits, written without the model's modules: head by head, with the full T x T pattern."""
    c, p = model.config, {name: tensor.double() for name, tensor in model.state_dict().items()}

    def sparse(site, x):
        return keep_largest(x, c.activation_fraction) if site in c.sparse_sites and c.activation_fraction < 1 else x

    def norm(x, name):
        if c.norm == "rms":
            return x / (x.pow(2).mean(-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt() * p[f"{name}.weight"]
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"]
        return scaled + p.get(f"{name}.bias", 0.0)

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)

    length, after = tokens.shape[1], (torch.relu if c.residual_activation == "relu" else lambda x: x)
    x = p["embed.weight"][tokens]
    if c.positions == "learned":
        x = x + p["position"][:length]
    for layer in range(c.n_layers):
        b = f"blocks.{layer}"
        extra = [[], []]
        if c.positions == "concatenated":
            extra = [
                [norm(p["position"][:length], f"{b}.position_norms.{i}").expand(len(tokens), -1, -1)] for i in (0, 1)
            ]
        read = sparse("attn.act_in", torch.cat([norm(x, f"{b}.attn_norm"), *extra[0]], -1))
        q, k, v = (sparse(f"attn.{name}", linear(read, f"{b}.attn.{name}")) for name in "qkv")
        heads = []
        for h in range(c.n_heads):
            part = slice(h * c.d_head, (h + 1) * c.d_head)
            scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(c.d_head)
            weights = scores.exp() * torch.ones(length, length).tril()
            total = weights.sum(-1, keepdim=True)
            if c.sink:
                total = total + p[f"{b}.attn.sink"][h].exp()
            heads.append(weights / total @ v[..., part])
        x = after(x + sparse("attn.resid_delta", linear(torch.cat(heads, -1), f"{b}.attn.out")))
        x = sparse("resid_mid", x)
        read = sparse("mlp.act_in", torch.cat([norm(x, f"{b}.mlp_norm"), *extra[1]], -1))
        hidden = linear(read, f"{b}.mlp.up")
        hidden = (
            hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))) if c.activation == "gelu" else hidden.clamp(min=0)
        )
        x = after(x + sparse("mlp.resid_delta", linear(sparse("mlp.post_act", hidden), f"{b}.mlp.down")))
        x = sparse("resid_out", x)
    logits = linear(norm(x, "final_norm"), "unembed")
    return logits + (p["bigram"][tokens] if c.bigram != "off" else 0)


@pytest.mark.parametrize("sink", [True, False])
@pytest.mark.parametrize("norm", ["rms", "layer"])
@pytest.mark.parametrize("positions", ["none", "learned", "concatenated"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "others",
    [
        {},
        {"activation_fraction": 1, "tied": True, "activation": "relu"},
        {"bigram": "learned", "residual_activation": "relu", "n_heads": 3, "d_mlp": 20},
        {"bigram": "counted", "sparse_sites": ("mlp.post_act", "attn.q")},
        {"activation_fraction": 0.4, "sparse_sites": ("mlp.act_in", "resid_mid", "resid_out")},
    ],
)
def test_logits_equal_an_independent_forward(sink, norm, positions, bias, others):
    model = random_model(sink=sink, norm=norm, positions=positions, bias=bias, **others)
    tokens = torch.randint(0, 23, (3, 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(tokens).double(), reference(model, tokens), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("d_head", [4, 16])
def test_the_gradients_of_attention_with_a_sink_are_exact(d_head):
    from openwork.model.attention import attend, attention_pattern

    q, k, v, dy = (torch.randn(2, 7, 2 * d_head, requires_grad=True) for _ in range(4))
    sink = torch.randn(2, requires_grad=True)
    ours = torch.autograd.grad(attend(q, k, v, d_head, sink), (q, k, v, sink), dy.detach())
    pattern = attention_pattern(q, k, d_head, sink)
    plain = torch.einsum("bhqk,bkhc->bqhc", pattern, v.view(2, 7, 2, d_head)).reshape(2, 7, -1)
    theirs = torch.autograd.grad(plain, (q, k, v, sink), dy.detach())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    doubled = [x.detach().double() for x in (q, k, v)]
    torch.testing.assert_close(
        attend(*doubled, d_head, sink.detach().double()).float(), plain.detach(), atol=1e-5, rtol=1e-4
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("d_head", [4, 16])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_on_a_gpu_attention_with_a_sink_and_its_gradients_are_the_same(d_head, dtype, tolerance):
    from openwork.model.attention import attend

    here = [torch.randn(2, 40, 3 * d_head).to(dtype).float().requires_grad_() for _ in range(3)]
    here.append(torch.randn(3, requires_grad=True))
    there = [x.detach().cuda().to(dtype).requires_grad_() for x in here[:3]] + [
        here[3].detach().cuda().requires_grad_()
    ]
    dy = torch.randn(2, 40, 3 * d_head).to(dtype).float()
    y, z = attend(*here[:3], d_head, here[3]), attend(*there[:3], d_head, there[3])
    torch.testing.assert_close(z.float().cpu(), y, atol=tolerance, rtol=tolerance)
    ours, theirs = torch.autograd.grad(z, there, dy.cuda().to(dtype)), torch.autograd.grad(y, here, dy)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.float().cpu(), b, atol=5 * tolerance, rtol=5 * tolerance)


def test_recording_tells_what_flowed_and_editing_changes_it():
    model = random_model()
    tokens = torch.randint(0, 23, (2, 9))
    logits, acts = model.run(tokens, record=all_sites(model.config))
    assert list(acts) == all_sites(model.config)
    assert torch.equal(logits, model(tokens))
    for site, width in node_sites(model.config).items():
        assert acts[site].shape == (2, 9, width)
    torch.testing.assert_close(acts["0.resid_mid"], acts["0.resid_in"] + acts["0.attn.resid_delta"])
    torch.testing.assert_close(acts["final_resid"], acts["1.resid_mid"] + acts["1.mlp.resid_delta"])
    edited, seen = model.run(tokens, record=["1.mlp.post_act"], edit={"1.mlp.post_act": torch.zeros_like})
    assert not seen["1.mlp.post_act"].any()
    assert not torch.equal(edited, logits)


@pytest.mark.parametrize("bigram", ["off", "learned"])
def test_logits_that_are_due_are_those_of_their_position_and_no_others_are_made(bigram):
    model = random_model(bigram=bigram)
    for parameter in model.parameters():
        parameter.data += 0.01
    tokens, due = torch.randint(0, 23, (3, 9)), torch.tensor([8, 0, 4])
    logits, acts = model.run(tokens, record=all_sites(model.config))
    unembedded: list[tuple[int, ...]] = []
    with model.unembed.register_forward_hook(lambda _, __, y: unembedded.append(tuple(y.shape))):
        at_due, acts_too = model.run(tokens, record=all_sites(model.config), due=due)
    torch.testing.assert_close(at_due, logits[torch.arange(3), due])
    assert unembedded == [(3, 23)] and all(torch.equal(acts_too[site], x) for site, x in acts.items())


@pytest.mark.parametrize("kind", NODE_SITES)
def test_a_sparse_site_has_exactly_its_fraction_of_non_zeros(kind):
    model = random_model(activation_fraction=0.25)
    acts = model.run(torch.randint(0, 23, (2, 9)), record=[f"1.{kind}"])[1]
    width = node_sites(model.config)[f"1.{kind}"]
    assert (acts[f"1.{kind}"] != 0).sum(-1).unique().tolist() == [width // 4]


def test_every_edit_left_out_is_the_identity_and_every_value_replaced_is_constant():
    """Full gates are the model; with every node ablated the logits depend on the residual stream's embedding alone."""
    model = random_model()
    tokens = torch.randint(0, 23, (1, 5))
    same, _ = model.run(tokens, edit={site: lambda x: x for site in node_sites(model.config)})
    assert torch.equal(same, model(tokens))
    ablate = {site: torch.zeros_like for site in node_sites(model.config)}
    logits, _ = model.run(tokens, edit=ablate)
    again, _ = model.run(tokens[:, [4, 1, 2, 3, 4]], edit=ablate)
    assert torch.equal(logits[:, 1:], again[:, 1:])


def test_a_later_token_never_changes_an_earlier_logit():
    model = random_model()
    tokens = torch.randint(0, 23, (1, 12))
    changed = tokens.clone()
    changed[0, 8:] = (tokens[0, 8:] + 1) % 23
    torch.testing.assert_close(model(tokens)[:, :8], model(changed)[:, :8])


def test_node_names_go_both_ways():
    config = ModelConfig(**SMALL)
    for site, width in node_sites(config).items():
        for index in (0, width - 1):
            assert parse_node(node_name(site, index, config.d_head), config.d_head) == (site, index)
    assert node_name("10.attn.v", 82 * 16, 16) == "10.attn.v.head82.ch0"
    assert node_name("0.mlp.post_act", 2790, 16) == "0.mlp.post_act.2790"
    with pytest.raises(UserError, match="names no node"):
        parse_node("mlp.3", 16)


def test_the_same_seed_gives_the_same_model_and_the_hash_tells_models_apart():
    assert Transformer(ModelConfig(**SMALL), seed=3).hash == Transformer(ModelConfig(**SMALL), seed=3).hash
    assert Transformer(ModelConfig(**SMALL), seed=3).hash != Transformer(ModelConfig(**SMALL), seed=4).hash


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"d_model": 18}, "d_model 18 is not divisible by model.d_head 4"),
        ({"n_layers": 0}, "n_layers is 0"),
        ({"activation_fraction": 0.0}, "activation_fraction is 0"),
        ({"sparse_sites": ("mlp.post",)}, "sparse_sites has 'mlp.post'"),
    ],
)
def test_impossible_sizes_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        ModelConfig(**{**SMALL, **options})


def test_an_unknown_site_is_answered_with_the_nearest():
    with pytest.raises(UserError, match=r"did you mean '0\.mlp\.post_act'"):
        random_model().run(torch.zeros(1, 2, dtype=torch.long), record=["0.mlp.postact"])
    with pytest.raises(UserError, match="13 tokens are more than the model's context of 12"):
        random_model()(torch.zeros(1, 13, dtype=torch.long))


def test_an_unknown_parameter_is_answered_with_the_nearest():
    model, tokens = random_model(bias=False), torch.randint(0, 23, (2, 5))
    with pytest.raises(
        UserError, match=r"no parameter 'blocks.0.attn.q.weigth'; did you mean 'blocks.0.attn.q.weight'"
    ):
        model.run(tokens, weights={"blocks.0.attn.q.weigth": torch.zeros(1)})
    for name in ("blocks.0.attn.q", "blocks.2.attn.q.weight", "weight", ""):
        with pytest.raises(UserError, match=f"no parameter '{name}'"):
            model.run(tokens, weights={name: torch.zeros(1)})
    with_bias = model.run(tokens, weights={"blocks.0.attn.q.bias": torch.ones(16)})[0]
    assert not torch.equal(with_bias, model(tokens))


@pytest.mark.parametrize(("n", "due"), [(4, [2]), (1, [1, 2, 3]), (4, [1, 2])])
def test_each_text_has_one_token_that_is_due(n, due):
    with pytest.raises(UserError, match=f"due names {len(due)} positions for {n} texts"):
        random_model().run(torch.zeros(n, 8, dtype=torch.int64), due=torch.tensor(due))


@pytest.mark.parametrize(("positions", "n"), [("none", 0), ("learned", 10**10), ("concatenated", 10**9)])
def test_the_size_of_a_model_counts_its_positions(positions, n):
    shape = {"n_layers": 1, "d_model": 1000, "d_head": 10, "d_position": 100, "positions": positions}
    assert n_weights(ModelConfig(**shape, n_ctx=10**7)) - n_weights(ModelConfig(**shape, n_ctx=1)) == pytest.approx(n)


@pytest.mark.parametrize("sink", [True, False])
def test_with_every_weight_closed_a_write_is_what_it_is_on_average(sink):
    """Also behind heads, whose patterns let less through than the values hold where there is a sink."""
    model = random_model(sink=sink, activation_fraction=1)
    batches = [torch.randint(0, 23, (8, 9), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    means = mean_activations(model, batches)
    _, acts = model.run(batches[0], weights=model.weights_of((), means), record=["0.attn.resid_delta"])
    assert (acts["0.attn.resid_delta"] - means["0.attn.resid_delta"]).abs().max() < 1e-5
    at_values = model.blocks[0].attn.out(means["0.attn.v"])
    assert (at_values - means["0.attn.resid_delta"]).abs().max() > 1e-3
