"""The answer as a sum: what each write, the last token and the biases add to the logit difference A - B.

The unembedding reads the stream after the final norm, and the stream is the sum of the embedding and of all writes:
once the norm's divisor is known, the difference is a sum of their parts. A ReLU or AbsTopK on the stream leaves a rest.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.artifacts import Circuit
from openwork.kernels.passes import EPS
from openwork.model import Transformer, node_name
from openwork.tasks import Pairs

Means = tuple[float, float]


@dataclass(frozen=True)
class AnswerParts:
    """Parts of the logit difference A - B before calibration, means over the pairs, for members A and B."""

    writes: tuple[tuple[str, Means], ...]
    """Of every writing node of the circuit that the answers read."""
    ablated: Means
    """What all other writes add: they are constants, divided by the norm."""
    embedding: Means
    """What the last token's embedding (and position) adds of its own."""
    biases: Means
    """Of unembedding and final norm."""
    bigram: Means
    """The bigram table's entries of the last token."""
    rest: Means
    """What a ReLU or AbsTopK on the stream takes away."""
    total: Means


def answer_parts(
    circuit: Circuit, model: Transformer, pairs: Pairs, acts: dict[str, Tensor], differences: Tensor
) -> AnswerParts:
    """From recorded activations ``acts[site]`` (2n, T, width) and the uncalibrated `differences` (n, 2)."""
    each, last = torch.arange(2 * len(pairs)), pairs.last.repeat_interleave(2)
    a, b = (answer.repeat_interleave(2) for answer in pairs.right.unbind(1))
    unembed = (model.unembed.weight[a] - model.unembed.weight[b]).double()
    reads = unembed * model.final_norm.weight.double()
    final = acts["final_resid"][each, last].double()
    if model.config.norm == "layer":
        size = (final.var(-1, unbiased=False) + 1e-5).sqrt()
        reads = reads - reads.mean(-1, keepdim=True)
    else:
        size = (final.square().mean(-1) + EPS).sqrt()
    reads = reads / size[:, None]
    writes, ablated = [], torch.zeros(len(each), dtype=torch.float64)
    for site, x in acts.items():
        if not site.endswith("resid_delta"):
            continue
        parts = x[each, last].double() * reads
        kept = circuit.kept.get(site, torch.zeros(0, dtype=torch.int64))
        for index in kept.tolist():
            if reads[:, index].any():
                writes.append((node_name(site, index, model.config.d_head), parts[:, index]))
        ablated = ablated + parts.sum(-1) - parts[:, kept].sum(-1)
    start = model.embed(pairs.flat[each, last]).double()
    if model.config.positions == "learned":
        start = start + model.position[last].double()
    found = {
        "ablated": ablated,
        "embedding": (start * reads).sum(-1),
        "biases": torch.zeros(len(each), dtype=torch.float64),
        "bigram": torch.zeros(len(each), dtype=torch.float64),
    }
    if model.unembed.bias is not None:
        found["biases"] += (model.unembed.bias[a] - model.unembed.bias[b]).double()
    if model.final_norm.bias is not None:
        found["biases"] += unembed @ model.final_norm.bias.double()
    if model.config.bigram != "off":
        rows = pairs.flat[each, last]
        found["bigram"] += (model.bigram[rows, a] - model.bigram[rows, b]).double()
    total = differences.double().flatten()
    found["rest"] = total - sum(found.values()) - sum(part for _, part in writes)
    order = {name: i for i, name in enumerate(circuit.nodes)}
    writes.sort(key=lambda named: order[named[0]])
    return AnswerParts(
        writes=tuple((name, _by_member(part)) for name, part in writes),
        total=_by_member(total),
        **{name: _by_member(part) for name, part in found.items()},
    )


def _by_member(x: Tensor) -> Means:
    a, b = x.detach().unflatten(0, (-1, 2)).mean(0).tolist()
    return a, b
