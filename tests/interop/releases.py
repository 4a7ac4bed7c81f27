"""Tiny models in the release's form, and their forward pass in plain tensor algebra: no code of the package."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor

SMALL = {"block_size": 8, "vocab_size": 17, "n_layer": 2, "n_head": 2, "d_head": 4, "d_model": 12, "d_mlp": 10}
ALL_SITES = "attn_in,attn_out,mlp_in,mlp_out,mlp_neuron,attn_k,attn_q,attn_v,resid_post_attn,resid_post_mlp"


def random_state(config: dict) -> dict[str, Tensor]:
    """Weights for `config` (the release's keys), names and shapes as the release saves them."""
    draw = torch.Generator().manual_seed(0)
    c = {**SMALL, **config}
    d, heads, extra = c["d_model"], c["n_head"] * c["d_head"], c.get("d_pos_emb") or 0
    shapes = {
        "final_logits_bias": (c["vocab_size"],),
        "transformer.wte.weight": (c["vocab_size"], d),
        "transformer.wpe.weight": (c["block_size"], extra or d),
        "lm_head.weight": (c["vocab_size"], d),
    }
    if c.get("enable_bigram_table"):
        shapes["bigram_table"] = (c["vocab_size"],) * 2

    def norm(name, size):
        shapes[f"{name}.weight"] = (size,)
        if not c.get("rms_norm") and c.get("ln_bias", True):
            shapes[f"{name}.bias"] = (size,)

    def linear(name, out, into):
        shapes[f"{name}.weight"] = (out, into)
        if c.get("bias", True):
            shapes[f"{name}.bias"] = (out,)

    for layer in (f"transformer.h.{i}" for i in range(c["n_layer"])):
        norm(f"{layer}.ln_1", d)
        norm(f"{layer}.ln_2", d)
        if extra:
            norm(f"{layer}.ln_p1", extra)
            norm(f"{layer}.ln_p2", extra)
        linear(f"{layer}.attn.c_attn", 3 * heads, d + extra)
        linear(f"{layer}.attn.c_proj", d, heads)
        linear(f"{layer}.mlp.c_fc", c["d_mlp"], d + extra)
        linear(f"{layer}.mlp.c_proj", d, c["d_mlp"])
        if c.get("sink"):
            shapes[f"{layer}.attn.attn_imp.sink_logit"] = (c["n_head"],)
    norm("transformer.ln_f", d)
    state = {name: torch.randn(shape, generator=draw) * 0.5 for name, shape in shapes.items()}
    if c.get("sinusoidal_cat_pos_emb"):
        state["transformer.wpe.weight"] = sinusoids(c["block_size"], extra)
    if c.get("tied_unembed", True):
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def sinusoids(length: int, channels: int) -> Tensor:
    """Sines, then cosines, of periods from 4 tokens to `length`, evenly spaced in their logarithm."""
    half = channels // 2
    rows = []
    for t in range(length):
        periods = [4 * (max(4, length) / 4) ** (i / max(1, half - 1)) for i in range(half)]
        rows.append([math.sin(2 * math.pi * t / p) for p in periods] + [math.cos(2 * math.pi * t / p) for p in periods])
    return torch.tensor(rows)


def write(directory: Path, config: dict, state: dict | None = None) -> dict[str, Tensor]:
    """Save a tiny release in `directory`; returns its weights."""
    directory.mkdir(parents=True, exist_ok=True)
    state = random_state(config) if state is None else state
    (directory / "beeg_config.json").write_text(json.dumps({**SMALL, **config}))
    torch.save(state, directory / "final_model.pt")
    return state


def forward(config: dict, state: dict[str, Tensor], tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and named activations, head by head, in double precision."""
    c, p, acts = {**SMALL, **config}, {n: t.double() for n, t in state.items()}, {}
    length, extra = tokens.shape[1], c.get("d_pos_emb")

    def sparse(place, x):
        fraction = c.get("afrac")
        if fraction is None or place not in c.get("afrac_loctypes", "attn_in,attn_out,mlp_in,mlp_out").split(","):
            return x
        threshold = x.abs().sort(-1, descending=True).values[..., int(fraction * x.shape[-1]) - 1]
        return torch.where(x.abs() >= threshold[..., None], x, 0.0)

    def norm(x, name):
        if c.get("rms_norm"):
            return x / (x.pow(2).mean(-1, keepdim=True) + 1.1920929e-07).sqrt() * p[f"{name}.weight"]
        x = x - x.mean(-1, keepdim=True)
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * p[f"{name}.weight"] + p.get(f"{name}.bias", 0.0)

    def linear(x, name):
        return x @ p[f"{name}.weight"].T + p.get(f"{name}.bias", 0.0)

    def read(x, layer, which):
        parts = [norm(x, f"{layer}.ln_{which}")]
        if extra:
            parts.append(norm(p["transformer.wpe.weight"][:length], f"{layer}.ln_p{which}").expand(len(x), -1, -1))
        return torch.cat(parts, -1)

    def after(x):
        return x.clamp(min=0) if c.get("residual_activation_type") == "relu" else x

    x = p["transformer.wte.weight"][tokens]
    if not extra:
        x = x + p["transformer.wpe.weight"][:length]
    for i in range(c["n_layer"]):
        layer, d = f"transformer.h.{i}", c["d_head"]
        acts[f"{i}.resid_in"] = x
        acts[f"{i}.attn.act_in"] = h = sparse("attn_in", read(x, layer, 1))
        qkv = dict(zip("qkv", linear(h, f"{layer}.attn.c_attn").chunk(3, -1), strict=True))
        q, k, v = (sparse(f"attn_{n}", qkv[n]) for n in "qkv")
        acts |= {f"{i}.attn.q": q, f"{i}.attn.k": k, f"{i}.attn.v": v}
        heads = []
        for n in range(c["n_head"]):
            part = slice(n * d, (n + 1) * d)
            weights = (q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(d)).exp()
            weights = weights * torch.ones(length, length).tril()
            total = weights.sum(-1, keepdim=True)
            if c.get("sink"):
                total = total + p[f"{layer}.attn.attn_imp.sink_logit"][n].exp()
            heads.append(weights / total @ v[..., part])
        acts[f"{i}.attn.y"] = y = torch.cat(heads, -1)
        acts[f"{i}.attn.resid_delta"] = delta = sparse("attn_out", linear(y, f"{layer}.attn.c_proj"))
        acts[f"{i}.resid_mid"] = x = sparse("resid_post_attn", after(x + delta))
        acts[f"{i}.mlp.act_in"] = h = sparse("mlp_in", read(x, layer, 2))
        h = linear(h, f"{layer}.mlp.c_fc")
        h = h.clamp(min=0) if c.get("activation_type") == "relu" else h * 0.5 * (1 + torch.erf(h / math.sqrt(2)))
        acts[f"{i}.mlp.post_act"] = h = sparse("mlp_neuron", h)
        acts[f"{i}.mlp.resid_delta"] = delta = sparse("mlp_out", linear(h, f"{layer}.mlp.c_proj"))
        x = sparse("resid_post_mlp", after(x + delta))
    acts["final_resid"] = x
    logits = norm(x, "transformer.ln_f") @ p["lm_head.weight"].T + p["final_logits_bias"]
    if c.get("enable_bigram_table"):
        logits = logits + p["bigram_table"][tokens]
    return logits, acts
