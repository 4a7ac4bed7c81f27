"""Read an Openwork model's activations under TransformerLens's names, for code that was written for its cache.

python examples/transformerlens_cache.py runs/demo/model
"""

from __future__ import annotations

import sys

import torch

import openwork
from openwork.interop import transformerlens


def previous_token_heads(model: openwork.Transformer, tokens: torch.Tensor) -> dict[str, float]:
    """For each head, how much of its attention goes to the token before, on average."""
    cache = transformerlens.cache(model, tokens)
    scores = {}
    for layer in range(model.config.n_layers):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        for head, score in enumerate(pattern.diagonal(-1, -2, -1).mean((0, 2)).tolist()):
            scores[f"{layer}.attn.head{head}"] = score
    return scores


def main(path: str) -> None:
    model = openwork.load_model(path)
    tokens = torch.tensor([[model.tokenizer.end_of_text, *model.tokenizer.encode("print('hello")]])  # pyright: ignore
    scores = previous_token_heads(model, tokens)
    for name in sorted(scores, key=lambda name: -scores[name])[:5]:
        print(f"{name}: {scores[name]:.2f} of its attention goes to the token before")
    print(transformerlens.site_of("blocks.0.mlp.hook_post", model.config), "is blocks.0.mlp.hook_post")


if __name__ == "__main__":
    main(*sys.argv[1:] or sys.exit(__doc__))
