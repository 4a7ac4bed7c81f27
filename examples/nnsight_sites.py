"""Read and change an Openwork model's activations with nnsight.

nnsight sees modules, so a site is the input or the output of one. Run it on a Model directory:

    python examples/nnsight_sites.py runs/demo/model
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from nnsight import NNsight

import openwork

SITES = {
    "resid_in": ("", "input"),
    "attn.act_in": ("attn.q", "input"),
    "attn.y": ("attn.out", "input"),
    "attn.resid_delta": ("attn", "output"),
    "resid_mid": ("mlp_norm", "input"),
    "mlp.act_in": ("mlp.up", "input"),
    "mlp.post_act": ("mlp.down", "input"),
    "mlp.resid_delta": ("mlp", "output"),
}
"""Site without its layer: the module within the block, and the side on which nnsight finds it. q, k and v after
AbsTopK are the inputs of no module: take them with `model.run`."""


def envoy(wrapped: NNsight, site: str) -> tuple[Any, str]:
    """The module of nnsight's that has `site`, and the side."""
    layer, _, kind = site.partition(".")
    path, side = SITES[kind]
    place: Any = wrapped.blocks[int(layer)]
    for name in path.split(".") if path else ():
        place = getattr(place, name)
    return place, side


def read(model: openwork.Transformer, tokens: torch.Tensor, site: str) -> torch.Tensor:
    """Activations (batch, position, width) of `site`, by nnsight."""
    wrapped = NNsight(model)
    place, side = envoy(wrapped, site)
    with wrapped.trace(tokens):
        found = getattr(place, side).save()
    return found


def without_neuron(model: openwork.Transformer, tokens: torch.Tensor, layer: int, neuron: int) -> torch.Tensor:
    """Logits with one neuron set to zero, by nnsight."""
    wrapped = NNsight(model)
    with wrapped.trace(tokens):
        wrapped.blocks[layer].mlp.down.input[..., neuron] = 0
        logits = wrapped.output.save()
    return logits


def main(path: str) -> None:
    model = openwork.load_model(path).requires_grad_(False)
    tokens = torch.tensor([[model.tokenizer.end_of_text, *model.tokenizer.encode("print('hello")]])  # pyright: ignore
    neurons = read(model, tokens, "0.mlp.post_act")
    strongest = int(neurons[0, -1].abs().argmax())
    change = (without_neuron(model, tokens, 0, strongest) - model(tokens))[0, -1].abs().max()
    print(f"0.mlp.post_act.{strongest} is strongest at the last token; without it a logit moves by up to {change:.3f}")


if __name__ == "__main__":
    main(*sys.argv[1:] or sys.exit(__doc__))
