"""From the stages' artefacts to what the page is told: one pass over the corpus, two runs of one pair, some weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict

import torch
from torch import Tensor

from openwork.artifacts import Card, Circuit, bind
from openwork.corpus import Corpus, Tokenizer
from openwork.errors import UserError
from openwork.explain.contexts import corpus_contexts
from openwork.model import FINAL_SITE, Transformer, parse_node
from openwork.tasks import Pairs, Task
from openwork.viewer.evidence import Evidence, Recorded, on_prompts, watch
from openwork.viewer.payload import (
    VERSION,
    Answers,
    CircuitView,
    HeadView,
    MemberView,
    ModelView,
    NodeView,
    Payload,
    TaskView,
)


def gather(circuit: Circuit, task: Task, card: Card | None, model: Transformer, corpus: Corpus) -> Payload:
    """All that the page shows of `circuit`.

    Raises:
        UserError: task, card, model or corpus do not belong to the circuit; the message names both sides.
    """
    _check_belong(circuit, task, card, model, corpus)
    circuit, device = bind(circuit, model), model.embed.weight.device
    pair = task.pairs("validation", circuit.n_pairs)
    tokens = pair.tokens[0, :, : int(pair.last[0]) + 1]
    whole = on_prompts(circuit, tokens.to(device), whole_model=True)
    alone = on_prompts(circuit, tokens.to(device), whole_model=False)
    seen, n_positions = watch(model, circuit.kept, corpus_contexts(corpus, model.config.n_ctx))
    shown = [name for name in circuit.nodes if not name.startswith(FINAL_SITE)]  # the drawing ends with the layers
    nodes = [_node_view(name, circuit, model, seen, whole, alone) for name in shown]
    number = {name: i for i, name in enumerate(shown)}
    answers = (int(pair.right[0, 0]), int(pair.wrong[0, 0]))
    read = {node.index for node in nodes if node.kind.endswith("act_in") and node.index < model.config.d_model}
    written = {node.index for node in nodes if node.kind.endswith("resid_delta")}
    payload = Payload(
        version=VERSION,
        model=_model_view(model),
        task=_task_view(task, pair, tokens, circuit, model, whole, alone),
        circuit=_circuit_view(circuit),
        nodes=nodes,
        edges=[(number[edge.source], number[edge.target], edge.weight) for edge in circuit.edges],
        embedding=list(_nonzero(model.embed.weight, tokens.unique().tolist(), read)),
        unembedding=[(j, t, w) for t, j, w in _nonzero(model.unembed.weight, answers, written)],
        heads=[_head_view(model, layer, head, whole, alone) for layer, head in _heads(nodes)],
        card=None if card is None else {**asdict(card), "passed": card.passed},
        texts={},
        n_positions=n_positions,
    )
    payload.texts.update(_texts(payload, corpus.tokenizer))
    return payload


def _check_belong(circuit: Circuit, task: Task, card: Card | None, model: Transformer, corpus: Corpus) -> None:
    pairs = [
        ("model", model.hash, circuit.model_hash, "load the model that it was found in"),
        ("task", task.hash, circuit.task_hash, "give its own task"),
    ]
    if card is not None:
        pairs += [
            ("card's model", card.model_hash, circuit.model_hash, "verify the circuit again"),
            ("card's task", card.task_hash, circuit.task_hash, "verify the circuit again"),
            ("card's size", f"{card.n_nodes} nodes", f"{len(circuit.nodes)} nodes", "verify the circuit again"),
            ("card's size", f"{card.n_edges} edges", f"{len(circuit.edges)} edges", "verify the circuit again"),
        ]
    if model.tokenizer is not None:
        pairs.append(("corpus's tokenizer", corpus.tokenizer.hash, model.tokenizer.hash, "give the model's own corpus"))
    for what, given, own, mend in pairs:
        if given != own:
            raise UserError(f"the {what} is {given[:12]}, the circuit's is {own[:12]}; {mend}")


def _node_view(
    name: str,
    circuit: Circuit,
    model: Transformer,
    seen: dict[tuple[str, int], Evidence],
    whole: Recorded,
    alone: Recorded,
) -> NodeView:
    d_head = model.config.d_head
    site, index = parse_node(name, d_head)
    layer, _, kind = site.partition(".")
    in_head = kind in ("attn.q", "attn.k", "attn.v")
    evidence = seen[site, index]
    return NodeView(
        name=name,
        site=site,
        layer=int(layer),
        kind=kind,
        index=index,
        head=index // d_head if in_head else None,
        channel=index % d_head if in_head else None,
        ablated=float(circuit.ablation_values[site][index]),
        active=evidence.active,
        positive=evidence.positive,
        negative=evidence.negative,
        model=whole.activations[site][..., index].tolist(),
        circuit=alone.activations[site][..., index].tolist(),
    )


def _heads(nodes: Iterable[NodeView]) -> list[tuple[int, int]]:
    return sorted({(node.layer, node.head) for node in nodes if node.head is not None})


def _head_view(model: Transformer, layer: int, head: int, whole: Recorded, alone: Recorded) -> HeadView:
    def pattern(run: Recorded) -> list[list[list[float]]]:
        q, k = run.activations[f"{layer}.attn.q"], run.activations[f"{layer}.attn.k"]
        with torch.no_grad():
            return model.attention_pattern(layer, q, k)[:, head].tolist()

    return HeadView(layer, head, pattern(whole), pattern(alone))


def _nonzero(weight: Tensor, rows: Iterable[int], columns: Iterable[int]) -> Iterable[tuple[int, int, float]]:
    for row in rows:
        for column in sorted(columns):
            if value := float(weight[row, column].detach()):
                yield row, column, value


def _model_view(model: Transformer) -> ModelView:
    names = set(ModelView.__dataclass_fields__) - {"hash"}
    return ModelView(hash=model.hash, **{name: getattr(model.config, name) for name in names})


def _circuit_view(circuit: Circuit) -> CircuitView:
    names = set(CircuitView.__dataclass_fields__) - {"tried"}
    return CircuitView(**{name: getattr(circuit, name) for name in names}, tried=list(circuit.tried))


def _task_view(
    task: Task, pair: Pairs, tokens: Tensor, circuit: Circuit, model: Transformer, whole: Recorded, alone: Recorded
) -> TaskView:
    rights, wrongs = pair.right[0].tolist(), pair.wrong[0].tolist()
    of_whole = _answers(whole, rights, wrongs, 1.0, 0.0)
    of_alone = _answers(alone, rights, wrongs, circuit.scale, circuit.shift)
    example = [
        MemberView(tokens[i].tolist(), rights[i], wrongs[i], of_whole[i], of_alone[i]) for i in range(len(tokens))
    ]
    bias = [0.0] * len(rights) if model.unembed.bias is None else model.unembed.bias.detach()[rights].tolist()
    bigram = [[0.0, 0.0] for _ in rights]
    if model.config.bigram != "off":
        rows = model.bigram.detach()[tokens[:, -1].to(model.bigram.device)]
        bigram = [
            [float(row[right]), float(row[wrong])] for row, right, wrong in zip(rows, rights, wrongs, strict=True)
        ]
    return TaskView(task.name, task.description, task.hash, example, bias, bigram)


def _answers(run: Recorded, rights: list[int], wrongs: list[int], scale: float, shift: float) -> list[Answers]:
    """Probabilities of the answers; the shift speaks for A, which is right for member 0 and wrong for member 1."""
    found = []
    for i, (right, wrong) in enumerate(zip(rights, wrongs, strict=True)):
        logits = run.logits[i].double()
        p, sign = logits.softmax(-1), 1 if i == 0 else -1
        difference = scale * float(logits[right] - logits[wrong]) + sign * shift
        of_two = torch.sigmoid(torch.tensor(difference, dtype=torch.float64))
        found.append(Answers(float(p[right]), float(p[wrong]), float(of_two)))
    return found


def _texts(payload: Payload, tokenizer: Tokenizer) -> dict[str, str]:
    """The text of every token id that the payload mentions; those of weights are tokens of the example."""
    ids: set[int] = set()
    for member in payload.task.example:
        ids.update(member.tokens, (member.right, member.wrong))
    for node in payload.nodes:
        for window in (*node.positive, *node.negative):
            ids.update(window.tokens)
    ordered = sorted(ids)
    return dict(zip(map(str, ordered), tokenizer.tokens(ordered), strict=True))
