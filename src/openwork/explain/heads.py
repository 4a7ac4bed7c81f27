"""Where the heads of a circuit attend, in the circuit and in the whole model, and what they bring.

Shapes: B prompts (members A and B of a pair next to each other), T positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.explain.responses import STILL, is_still
from openwork.model import Transformer, parse_node
from openwork.model.attention import attention_pattern
from openwork.model.transformer import Block
from openwork.tasks import Pairs

AT_ONCE = 64
"""Prompts whose patterns (T x T) are in memory at once."""


@dataclass(frozen=True)
class Attended:
    """Where one head of a runner attends from the answer's position, means over the pairs."""

    tokens: tuple[tuple[tuple[int, float], ...], tuple[tuple[int, float], ...]]
    """For members A and B, the tokens that most attention falls on, with their share."""
    deciding: tuple[float, float]
    """Attention to the tokens that differ within a pair."""
    deciding_most: float
    """Share of prompts in which no other token gets more attention than a deciding one."""
    sink: tuple[float, float]
    keys: float
    """Over how many keys the attention is spread: the exponential of its entropy, the sink left out."""


@dataclass(frozen=True)
class HeadSeen:
    """One head that moves values of the circuit."""

    layer: int
    head: int
    channels: tuple[str, ...]
    """Its value nodes that an edge leaves."""
    circuit: Attended
    model: Attended
    moved: tuple[tuple[float, float], ...]
    """Of each channel, what arrives at the answer's position for members A and B, means over the pairs."""
    query_constant: bool
    """Whether its query is the same at every position: then it looks for the same everywhere."""
    key_constant: bool


def means(x: Tensor) -> tuple[float, float]:
    """Of x (n, 2), the means over the pairs."""
    a, b = x.double().mean(0).tolist()
    return a, b


def at_answer(pairs: Pairs, x: Tensor) -> Tensor:
    """(n, 2): of x (2n, T) what stands where the answer is due."""
    return x[torch.arange(len(x)), pairs.last.repeat_interleave(2)].unflatten(0, (-1, 2))


def see_heads(
    circuit: Circuit, model: Transformer, pairs: Pairs, acts: dict[str, Tensor], model_acts: dict[str, Tensor]
) -> Iterator[HeadSeen]:
    """Every head with a value node that an edge leaves."""
    d_head = model.config.d_head
    leaving = {edge.source for edge in circuit.edges}
    moving: dict[tuple[int, int], list[tuple[str, int]]] = {}
    for name in circuit.nodes:
        site, index = parse_node(name, d_head)
        if site.endswith("attn.v") and name in leaving:
            moving.setdefault((int(site.partition(".")[0]), index // d_head), []).append((name, index))
    for (layer, head), channels in sorted(moving.items()):
        columns = slice(head * d_head, (head + 1) * d_head)
        still = [
            all(is_still(float(x.min()), float(x.max())) for x in acts[f"{layer}.attn.{part}"][..., columns].unbind(-1))
            for part in "qk"
        ]
        yield HeadSeen(
            layer=layer,
            head=head,
            channels=tuple(name for name, _ in channels),
            circuit=_attended(model, pairs, acts, layer, head),
            model=_attended(model, pairs, model_acts, layer, head),
            moved=tuple(means(at_answer(pairs, acts[f"{layer}.attn.y"][..., index])) for _, index in channels),
            query_constant=still[0],
            key_constant=still[1],
        )


def _attended(model: Transformer, pairs: Pairs, acts: dict[str, Tensor], layer: int, head: int) -> Attended:
    """From recorded activations ``acts[site]`` (B, T, width)."""
    columns = slice(head * model.config.d_head, (head + 1) * model.config.d_head)
    sink = cast(Block, model.blocks[layer]).attn.sink
    q, k = (acts[f"{layer}.attn.{part}"][..., columns].split(AT_ONCE) for part in "qk")
    lasts = pairs.last.repeat_interleave(2).split(AT_ONCE)
    own = None if sink is None else sink[head]
    rows = [
        _pattern(some_q, some_k, own)[torch.arange(len(last)), last]
        for some_q, some_k, last in zip(q, k, lasts, strict=True)
    ]
    due = torch.cat(rows).double()  # (B, key)
    differ = (pairs.tokens[:, 0] != pairs.tokens[:, 1]).repeat_interleave(2, 0)
    sums = due.sum(-1, keepdim=True)
    share = due / sums.clamp_min(1e-30)
    entropy = -(share * share.clamp_min(1e-30).log()).sum(-1)
    most = torch.where(differ, due, 0).amax(-1) >= due.amax(-1) * (1 - STILL)
    by_member = []
    for member in (0, 1):
        total = torch.zeros(model.config.d_vocab, dtype=torch.float64)
        total.index_add_(0, pairs.tokens[:, member].flatten(), due[member::2].flatten())
        best = total.sort(descending=True, stable=True).indices[:3].tolist()
        by_member.append(tuple((t, float(total[t]) / len(pairs)) for t in best if total[t] > 0))
    return Attended(
        tokens=(by_member[0], by_member[1]),
        deciding=means((due * differ).sum(-1).unflatten(0, (-1, 2))),
        deciding_most=float(most.double().mean()),
        sink=means((1 - sums[:, 0]).clamp_min(0).unflatten(0, (-1, 2))),
        keys=float(entropy.exp().mean()),
    )


def _pattern(q: Tensor, k: Tensor, sink: Tensor | None) -> Tensor:
    """The pattern (B, query, key) of one head."""
    return attention_pattern(q, k, q.shape[-1], None if sink is None else sink[None])[:, 0]
