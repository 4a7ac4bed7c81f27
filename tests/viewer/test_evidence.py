from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwork.corpus import Corpus
from openwork.explain.contexts import corpus_contexts
from openwork.viewer.evidence import AFTER, BEFORE, PER_SIGN, Largest, watch
from tests.viewer.toys import toy_model


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, -1]))
def test_the_largest_of_a_stream_are_the_largest_of_all(seed: int, sign: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.arange(60 * 12).view(60, 12)  # no two texts are the same
    x = torch.randn(60, 12, 3, generator=generator)
    largest = Largest(3, sign)
    for i in range(0, 60, 7):
        largest.update(tokens[i : i + 7], x[i : i + 7])

    for node in range(3):
        found = [window.values[window.peak] for window in largest.windows(node)]
        wanted = (sign * x[..., node]).max(1).values.sort(descending=True).values[:PER_SIGN] * sign
        assert torch.allclose(torch.tensor(found), wanted)


def test_a_window_has_the_tokens_around_its_peak_and_their_activations() -> None:
    length = 50
    tokens = torch.arange(length)[None]
    x = torch.linspace(0, 0.5, length)[None, :, None].clone()
    x[0, 30] = 2.0
    largest = Largest(1, +1)
    largest.update(tokens, x)

    (window,) = largest.windows(0)

    assert window.tokens == list(range(30 - BEFORE, 30 + AFTER + 1))
    assert window.tokens[window.peak] == 30
    assert window.values[window.peak] == 2.0
    assert window.values[0] == x[0, 30 - BEFORE, 0]


def test_windows_end_where_the_context_ends_and_repeat_no_text() -> None:
    tokens = torch.tensor([[5, 6, 7], [5, 6, 7], [8, 6, 7]])
    x = torch.tensor([[[0.0], [3.0], [0.0]], [[0.0], [2.0], [0.0]], [[0.0], [1.0], [0.0]]])
    largest, smallest = Largest(1, +1), Largest(1, -1)
    largest.update(tokens, x)
    smallest.update(tokens, x)

    assert [(w.tokens, w.peak) for w in largest.windows(0)] == [([5, 6, 7], 1), ([8, 6, 7], 1)]
    assert smallest.windows(0) == []


def test_contexts_do_not_overlap_and_cover_a_short_split_whole(tiny_corpus: Corpus) -> None:
    n_ctx = 16
    contexts = torch.cat(list(corpus_contexts(tiny_corpus, n_ctx)))
    whole = torch.from_numpy(tiny_corpus.validation.window(0, len(tiny_corpus.validation)))

    assert len(contexts) == len(whole) // n_ctx
    flat = contexts.flatten()
    assert torch.equal(contexts[0], whole[:n_ctx])
    assert torch.equal(contexts[-1], whole[-n_ctx:])
    assert len(flat) <= len(whole)
    assert len(torch.cat(list(corpus_contexts(tiny_corpus, 16, n=3)))) == 3


def test_what_is_seen_of_a_node_is_what_the_model_does(tiny_corpus: Corpus) -> None:
    model = toy_model(tiny_corpus)
    site, channel = "1.mlp.post_act", 5
    contexts = list(corpus_contexts(tiny_corpus, model.config.n_ctx))

    seen, n_positions = watch(model, {site: torch.tensor([2, channel])}, contexts)

    tokens = torch.cat(contexts)
    x = model.run(tokens, record=[site])[1][site][..., channel].detach()
    found = seen[site, channel]
    assert n_positions == tokens.numel()
    assert abs(found.active - float((x != 0).float().mean())) < 1e-6
    assert abs(found.positive[0].values[found.positive[0].peak] - float(x.max())) < 1e-5
    assert abs(found.negative[0].values[found.negative[0].peak] - float(x.min())) < 1e-5
