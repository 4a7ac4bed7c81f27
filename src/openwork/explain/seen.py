"""All that is told of a circuit, measured on its task's validation pairs: nodes, edges, heads, and the answer's parts.

Values, patterns and parts are the circuit's own unless it is said that they are the whole model's. Shapes: B prompts
(members A and B of a pair next to each other), T positions, W channels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.artifacts import Circuit, bind
from openwork.corpus import Corpus
from openwork.explain.belongs import check_circuit
from openwork.explain.heads import HeadSeen, at_answer, means, see_heads
from openwork.explain.parts import AnswerParts, answer_parts
from openwork.explain.responses import Responses, corpus_responses, is_still, over_positions
from openwork.model import Transformer, matrices, parse_node
from openwork.models import check_corpus
from openwork.tasks import Pairs, Task

LOOKED_AT = 256
"""Pairs that run at once, and at most so many are looked at; the stated losses may be of more."""


@dataclass(frozen=True)
class NodeSeen:
    """One node of the circuit."""

    name: str
    task: Responses
    """In the circuit, over all positions of the prompts up to the answer's."""
    corpus: Responses | None
    """In the whole model, over the corpus, if one was given."""
    at_answer: tuple[float, float]
    """Mean value where the answer is due, for members A and B."""
    constant_at_answer: bool
    on_deciding: tuple[float, float]
    """Mean value on the tokens that differ within a pair, for members A and B."""
    bias: float | None
    """What is added to its edges: bias, and the ablation values that all other weights carry; None for reads."""
    idle: bool
    """Constant on the task, so that its edges only add to biases: not a value behind a sink, which takes a part of the
    head's attention that varies."""
    folded: float
    """The part that edges from idle nodes add to the bias."""
    edges: tuple[tuple[str, float], ...]
    """Sources and weights of the edges that reach it."""


@dataclass(frozen=True)
class Seen:
    """What `openwork explain` tells."""

    task: str
    description: str
    model_hash: str
    n_pairs: int
    """Those that were looked at."""
    losses: dict[str, float]
    accuracy: float
    """Share of prompts that the circuit answers right."""
    scale: float
    shift: float
    difference: tuple[float, float]
    """Mean calibrated logit difference A - B of members A and B."""
    model_difference: tuple[float, float]
    answers: tuple[int, int] | None
    """The tokens A and B; None where they differ from pair to pair."""
    deciding: tuple[tuple[int, ...], tuple[int, ...]]
    """The tokens that differ within the first pair, in members A and B."""
    mean_length: float
    ablation: str
    nodes: tuple[NodeSeen, ...]
    heads: tuple[HeadSeen, ...]
    parts: AnswerParts
    embeddings: tuple[tuple[int, str, float], ...]
    """Of the deciding tokens, the embedding's entries at the channels that the circuit reads: token, node, weight."""


@torch.no_grad()
def see(circuit: Circuit, model: Transformer, task: Task, corpus: Corpus | None = None) -> Seen:
    """Run the circuit and the model on the validation pairs, and the model over the corpus, if there is one.

    Raises:
        UserError: the task or the corpus is not the circuit's.
    """
    check_circuit(circuit, task)
    if corpus is not None:
        check_corpus(model, corpus)
    circuit, pairs = bind(circuit, model), task.pairs("validation", min(circuit.n_pairs, LOOKED_AT))
    layers = range(model.config.n_layers)
    record = {*circuit.kept, "final_resid", *(f"{i}.attn.{part}" for i in layers for part in "qkvy")}
    record |= {f"{i}.{part}.resid_delta" for i in layers for part in ("attn", "mlp")}
    logits, acts = circuit.run(pairs.flat, sorted(record), pairs.due)
    model_logits, model_acts = model.run(pairs.flat, sorted(record), due=pairs.due)
    differences = circuit.scale * pairs.differences(logits) + circuit.shift
    inside = (torch.arange(pairs.tokens.shape[-1]) <= pairs.last[:, None]).repeat_interleave(2, 0)
    on_task = over_positions(
        circuit, pairs.flat[inside], {site: acts[site][inside][:, index] for site, index in circuit.kept.items()}
    )
    on_corpus = {} if corpus is None else corpus_responses(circuit, model, corpus)
    nodes = tuple(_nodes(circuit, model, pairs, acts, on_task, on_corpus))
    same = bool((pairs.right == pairs.right[0]).all())
    first = pairs.tokens[0][:, pairs.tokens[0, 0] != pairs.tokens[0, 1]]
    differing = [tuple(tokens) for tokens in first.tolist()]
    return Seen(
        task=circuit.task,
        description=task.description,
        model_hash=model.hash,
        n_pairs=len(pairs),
        losses=dict(circuit.losses),
        accuracy=pairs.accuracy(differences),
        scale=circuit.scale,
        shift=circuit.shift,
        difference=means(differences),
        model_difference=means(pairs.differences(model_logits)),
        answers=(int(pairs.right[0, 0]), int(pairs.right[0, 1])) if same else None,
        deciding=(differing[0], differing[1]),
        mean_length=float(pairs.last.double().mean()) + 1,
        ablation=circuit.ablation,
        nodes=nodes,
        heads=tuple(see_heads(circuit, model, pairs, acts, model_acts)),
        parts=answer_parts(circuit, model, pairs, acts, pairs.differences(logits)),
        embeddings=tuple(_embeddings(model, nodes, sorted({*differing[0], *differing[1]}))),
    )


def _nodes(
    circuit: Circuit,
    model: Transformer,
    pairs: Pairs,
    acts: dict[str, Tensor],
    on_task: dict[tuple[str, int], Responses],
    on_corpus: dict[tuple[str, int], Responses],
) -> Iterator[NodeSeen]:
    """Every node, in forward order."""
    d_head = model.config.d_head
    weights = model.weights_of(circuit.edges, circuit.ablation_values)
    names = {matrix.target: matrix.name for matrix in matrices(model)}
    differ = pairs.tokens[:, 0] != pairs.tokens[:, 1]

    def idle(name: str) -> bool:
        return on_task[parse_node(name, d_head)].constant and not (model.config.sink and ".attn.v." in name)

    for name in circuit.nodes:
        site, index = parse_node(name, d_head)
        values = acts[site][..., index]
        due = at_answer(pairs, values)
        edges = tuple((edge.source, edge.weight) for edge in circuit.edges if edge.target == name)
        yield NodeSeen(
            name=name,
            task=on_task[site, index],
            corpus=on_corpus.get((site, index)),
            at_answer=means(due),
            constant_at_answer=is_still(float(due.min()), float(due.max())),
            on_deciding=means(values.unflatten(0, (-1, 2)).transpose(1, 2)[differ]),
            bias=float(weights[f"{names[site]}.bias"][index]) if site in names else None,
            idle=idle(name),
            folded=sum(
                weight * on_task[parse_node(source, d_head)].resting for source, weight in edges if idle(source)
            ),
            edges=edges,
        )


def _embeddings(model: Transformer, nodes: tuple[NodeSeen, ...], tokens: list[int]) -> Iterator[tuple[int, str, float]]:
    """Embedding entries of `tokens` at the channels that act_in nodes read, first reads first."""
    channels: dict[int, str] = {}
    for node in nodes:
        site, index = parse_node(node.name, model.config.d_head)
        if site.endswith("act_in") and index < model.config.d_model:
            channels.setdefault(index, node.name)
    for token in tokens:
        for channel, name in channels.items():
            if value := float(model.embed.weight[token, channel]):
                yield token, name, value
