"""All that is told of a circuit, measured on its task's validation pairs: nodes, edges, heads, and the answer's parts.

Values, patterns and parts are the circuit's own unless it is said that they are the whole model's. Shapes: B prompts
(members A and B of a pair next to each other), T positions, W channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from openwork.artifacts import Circuit, bind
from openwork.corpus import Corpus
from openwork.errors import UserError
from openwork.explain.parts import AnswerParts, answer_parts
from openwork.explain.responses import STILL, Responses, corpus_responses, is_still, over_positions
from openwork.model import Transformer, matrices, parse_node
from openwork.model.transformer import Block
from openwork.tasks import Pairs, Task


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
    """What is added to the edges that reach it: bias, and ablation values carried by all other weights; None for reads."""
    folded: float
    """The part that edges from constant nodes add to that."""
    edges: tuple[tuple[str, float], ...]
    """Sources and weights of the edges that reach it."""


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


@dataclass(frozen=True)
class Seen:
    """What `openwork explain` tells."""

    task: str
    description: str
    model_hash: str
    n_pairs: int
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
    if task.hash != circuit.task_hash:
        raise UserError(
            f"the circuit is of task {circuit.task} ({circuit.task_hash[:12]}), not of {task.name} ({task.hash[:12]}); "
            "give its own task"
        )
    if corpus is not None and model.tokenizer is not None and corpus.tokenizer.hash != model.tokenizer.hash:
        raise UserError(
            f"the corpus's tokenizer is {corpus.tokenizer.hash[:12]}, the model's is {model.tokenizer.hash[:12]}; "
            "give the model's own corpus"
        )
    circuit, pairs = bind(circuit, model), task.pairs("validation", circuit.n_pairs)
    layers = range(model.config.n_layers)
    record = {*circuit.kept, "final_resid", *(f"{i}.attn.{part}" for i in layers for part in "qkvy")}
    record |= {f"{i}.{part}.resid_delta" for i in layers for part in ("attn", "mlp")}
    logits, acts = circuit.run(pairs.flat, record=sorted(record))
    model_logits, model_acts = model.run(pairs.flat, record=sorted(record))
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
        difference=_means(differences),
        model_difference=_means(pairs.differences(model_logits)),
        answers=(int(pairs.right[0, 0]), int(pairs.right[0, 1])) if same else None,
        deciding=(differing[0], differing[1]),
        mean_length=float(pairs.last.double().mean()) + 1,
        ablation=circuit.ablation,
        nodes=nodes,
        heads=tuple(_heads(circuit, model, pairs, acts, model_acts, nodes)),
        parts=answer_parts(circuit, model, pairs, acts, pairs.differences(logits)),
        embeddings=tuple(_embeddings(model, nodes, sorted({*differing[0], *differing[1]}))),
    )


def _means(x: Tensor) -> tuple[float, float]:
    """Of x (n, 2), the means over the pairs."""
    a, b = x.double().mean(0).tolist()
    return a, b


def _at_answer(pairs: Pairs, x: Tensor) -> Tensor:
    """(n, 2): of x (2n, T) what stands where the answer is due."""
    return x[torch.arange(len(x)), pairs.last.repeat_interleave(2)].unflatten(0, (-1, 2))


def _nodes(circuit, model, pairs, acts, on_task, on_corpus):
    """Every node, in forward order."""
    d_head = model.config.d_head
    weights = model.weights_of(circuit.edges, circuit.ablation_values)
    names = {matrix.target: matrix.name for matrix in matrices(model)}
    differ = pairs.tokens[:, 0] != pairs.tokens[:, 1]
    for name in circuit.nodes:
        site, index = parse_node(name, d_head)
        values = acts[site][..., index]
        due = _at_answer(pairs, values)
        edges = tuple((edge.source, edge.weight) for edge in circuit.edges if edge.target == name)
        still = [(on_task[parse_node(source, d_head)], weight) for source, weight in edges]
        yield NodeSeen(
            name=name,
            task=on_task[site, index],
            corpus=on_corpus.get((site, index)),
            at_answer=_means(due),
            constant_at_answer=is_still(float(due.min()), float(due.max())),
            on_deciding=_means(values.unflatten(0, (-1, 2)).transpose(1, 2)[differ]),
            bias=float(weights[f"{names[site]}.bias"][index]) if site in names else None,
            folded=sum(weight * node.resting for node, weight in still if node.constant),
            edges=edges,
        )


def _heads(circuit: Circuit, model: Transformer, pairs: Pairs, acts, model_acts, nodes):
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
            moved=tuple(_means(_at_answer(pairs, acts[f"{layer}.attn.y"][..., index])) for _, index in channels),
            query_constant=still[0],
            key_constant=still[1],
        )


def _attended(model: Transformer, pairs: Pairs, acts: dict[str, Tensor], layer: int, head: int) -> Attended:
    columns = slice(head * model.config.d_head, (head + 1) * model.config.d_head)
    sink = cast(Block, model.blocks[layer]).attn.sink
    rows = []
    for q, k in zip(acts[f"{layer}.attn.q"].split(64), acts[f"{layer}.attn.k"].split(64), strict=True):
        rows.append(_pattern(q[..., columns], k[..., columns], None if sink is None else sink[head]))
    pattern = torch.cat(rows)
    each, last = torch.arange(len(pattern)), pairs.last.repeat_interleave(2)
    due = pattern[each, last].double()  # (B, key)
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
        deciding=_means((due * differ).sum(-1).unflatten(0, (-1, 2))),
        deciding_most=float(most.double().mean()),
        sink=_means((1 - sums[:, 0]).clamp_min(0).unflatten(0, (-1, 2))),
        keys=float(entropy.exp().mean()),
    )


def _pattern(q: Tensor, k: Tensor, sink: Tensor | None) -> Tensor:
    """The pattern (B, query, key) of one head."""
    from openwork.model.attention import attention_pattern

    return attention_pattern(q, k, q.shape[-1], None if sink is None else sink[None])[:, 0]


def _embeddings(model: Transformer, nodes: tuple[NodeSeen, ...], tokens: list[int]):
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
