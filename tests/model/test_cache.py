"""With the cache, tokens one at a time have the logits that they have all at once."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer


@pytest.mark.parametrize("positions", ["none", "learned", "concatenated"])
@pytest.mark.parametrize(("d_head", "sink"), [(16, True), (4, True), (4, False)])
@torch.no_grad()
def test_logits_do_not_depend_on_how_tokens_are_fed(positions: Literal["none"], d_head, sink):
    config = ModelConfig(
        n_layers=2, d_model=32, d_head=d_head, n_ctx=12, d_vocab=50, positions=positions, sink=sink, bigram="learned"
    )
    model = Transformer(config)
    tokens = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))
    want = model(tokens)
    for parts in ([12], [1] * 12, [5, 1, 1, 4, 1]):
        cache = model.new_cache()
        logits = torch.cat([model.extend(part, cache) for part in tokens.split(parts, dim=1)], dim=1)
        torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_full_cache_takes_no_more():
    model = Transformer(ModelConfig(n_layers=1, d_model=16, n_ctx=4, d_vocab=20))
    cache = model.new_cache()
    model.extend(torch.zeros(1, 4, dtype=torch.int64), cache)
    with pytest.raises(UserError, match="5 tokens are more than the model's context of 4"):
        model.extend(torch.zeros(1, 1, dtype=torch.int64), cache)


def test_generation_is_that_of_the_model_without_a_cache(tiny_corpus):
    model = Transformer(ModelConfig(n_layers=1, d_model=32, n_ctx=8, d_vocab=280), seed=3).eval()
    model.tokenizer = tiny_corpus.tokenizer
    tokens = [model.tokenizer.end_of_text, *model.tokenizer.encode("x1 = ")]
    start = len(tokens)
    for _ in range(20):  # past the end of the context
        with torch.no_grad():
            tokens.append(int(model(torch.tensor([tokens[-8:]]))[0, -1].argmax()))
        if tokens[-1] == model.tokenizer.end_of_text:
            tokens.pop()
            break
    assert model.generate("x1 = ", 20) == "x1 = " + model.tokenizer.decode(tokens[start:])


def test_a_cache_of_two_texts_takes_no_single_one():
    model = Transformer(ModelConfig(n_layers=1, d_model=16, d_head=4, n_ctx=8, d_vocab=20)).eval()
    cache = model.new_cache()
    with torch.no_grad():
        model.extend(torch.zeros(2, 3, dtype=torch.long), cache)
        with pytest.raises(AssertionError):
            model.extend(torch.zeros(1, 1, dtype=torch.long), cache)
