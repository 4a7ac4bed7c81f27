"""Speed of inference: one token at a time with a key/value cache, and whole contexts.

dense     the same shape, dense, in plain PyTorch
naive     the same sparse model in plain PyTorch: dense products, AbsTopK by torch.topk
sparse    the same sparse model in this package
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from statistics import median
from typing import Any

import torch

from openwork.bench.plain import plain_operators
from openwork.bench.timing import interleave, repeat, times
from openwork.model import ModelConfig, Transformer
from openwork.sparsity import SparsityConfig, project_, quotas, use_sparse_layers


def bench_inference(
    layers: int, d_model: int, density: float, *, n_ctx: int = 256, filled: int = 32, rounds: int = 7, repeats: int = 20
) -> dict[str, Any]:
    """Median tokens per second of a new token after `filled` others, and of a whole context at once.

    A round takes `repeats` tokens in a row, as generation does: the first finds another way's weights in the caches.
    """
    shape = ModelConfig(n_layers=layers, d_model=d_model, n_ctx=n_ctx)
    sparse = Transformer(shape).eval()
    project_(quotas(sparse, SparsityConfig(density=density), density))
    dense = Transformer(replace(shape, activation_fraction=1.0)).eval()
    naive = Transformer(shape).eval()
    naive.load_state_dict(sparse.state_dict())
    use_sparse_layers(sparse)
    tokens = torch.randint(0, shape.d_vocab, (1, n_ctx), generator=torch.Generator().manual_seed(0))
    models = {"dense": dense, "naive": naive, "sparse": sparse}
    result: dict[str, Any] = {"layers": layers, "d_model": d_model, "density": density, "n_ctx": n_ctx}
    result |= {"filled": filled, "threads": torch.get_num_threads(), "tokens_per_second": {}, "times_dense": {}}
    for kind, way, n in (("one token", one_token(tokens, filled), repeats), ("context", whole_context(tokens), 1)):
        ways = {name: repeat(n, way(model, name != "sparse")) for name, model in models.items()}
        seconds = interleave(ways, rounds)
        count = n * (1 if kind == "one token" else n_ctx)
        result["tokens_per_second"][kind] = {name: count / median(s) for name, s in seconds.items()}
        result["times_dense"][kind] = {name: times(seconds["dense"], s) for name, s in seconds.items()}
    with torch.no_grad():
        with plain_operators():
            want = naive(tokens)
        result["largest_difference"] = float((sparse(tokens) - want).abs().max())
    return result


Way = Callable[[Transformer, bool], Callable[[], object]]


def one_token(tokens: torch.Tensor, filled: int) -> Way:
    """The step of generation: one token after `filled` others."""

    def way(model: Transformer, plain: bool) -> Callable[[], object]:
        cache = model.new_cache()
        with torch.no_grad():
            model.extend(tokens[:, :filled], cache)

        @torch.no_grad()
        def step() -> torch.Tensor:
            for layer in cache:
                layer.length = filled
            return model.extend(tokens[:, filled : filled + 1], cache)

        return _plainly(step) if plain else step

    return way


def whole_context(tokens: torch.Tensor) -> Way:
    """The logits of a whole context at once."""

    def way(model: Transformer, plain: bool) -> Callable[[], object]:
        @torch.no_grad()
        def run() -> torch.Tensor:
            return model(tokens)

        return _plainly(run) if plain else run

    return way


def _plainly(f: Callable[[], object]) -> Callable[[], object]:
    def run() -> object:
        with plain_operators():
            return f()

    return run
