"""A small model, and pairs that a user might write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from openwork.corpus import Tokenizer
from openwork.model import ModelConfig, Transformer


def small_model(tokenizer: Tokenizer) -> Transformer:
    torch.manual_seed(0)
    model = Transformer(ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=96, d_vocab=tokenizer.d_vocab)).eval()
    model.tokenizer = tokenizer
    return model


NOUNS = ("name", "value", "key", "data", "path", "file", "line", "text", "item", "node", "list", "size")
VERBS = ("get", "set", "add", "load")


def quotes(count: int = 32) -> list[dict[str, Any]]:
    """Members of `count` pairs: ``verb('noun`` is closed with the mark that opened it."""
    places = [(verb, noun) for verb in VERBS for noun in NOUNS][:count]
    return [
        {"prompt": f"{verb}({mark}{noun}", "right": f"{mark})", "wrong": f"{other})"}
        for verb, noun in places
        for mark, other in (("'", '"'), ('"', "'"))
    ]


def write(path: Path, members: list[Any]) -> str:
    path.write_text("\n".join(json.dumps(member) for member in members) + "\n", encoding="utf-8")
    return str(path)
