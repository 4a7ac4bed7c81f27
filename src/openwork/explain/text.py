"""What was seen of a circuit, as text: from the tokens to the answer, and what to distrust."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

from openwork.explain.heads import Attended, HeadSeen
from openwork.explain.numbers import percent, signed, two, value, wrapped
from openwork.explain.responses import Responses
from openwork.explain.seen import NodeSeen, Seen
from openwork.explain.short import in_short, separated

TWICE = 2
"""Model and circuit are said to differ where one is so many times the other."""
EVERYWHERE = 0.98
"""A node that is not at rest at more positions than this has no resting value worth the name."""
SITES = {
    "attn.act_in": "attention reads the stream",
    "attn.q": "queries",
    "attn.k": "keys",
    "attn.v": "values",
    "attn.resid_delta": "attention writes to the stream",
    "mlp.act_in": "the MLP reads the stream",
    "mlp.post_act": "neurons",
    "mlp.resid_delta": "the MLP writes to the stream",
}
LEGEND = """How to read. A > B: means over the prompts whose right answer is A, then B; deciding: on the tokens \
that differ within a pair; answer: where the answer is due. A node rests at its median over all positions, and its \
response is how far it is from there. Behind a token stand the node's mean value at it and the share of all its \
response that falls on it; the shares of its three strongest tokens make its selectivity (1: these tokens alone, 0: \
everything a little). Task: in the circuit, over the prompts; corpus: in the whole model. A node's edges stand after \
its equals sign; the number without a node is its bias, with all that ablated nodes add to it; in an attention's \
write, a value node stands for what its head brings of it. Reads go through RMSNorm or LayerNorm, neurons through the \
activation function, and AbsTopK closes what is not among the largest of its site."""


def to_text(seen: Seen, texts: Callable[[Sequence[int]], list[str]]) -> str:
    """The whole explanation; `texts` gives the text of each of some tokens (`Tokenizer.tokens`)."""

    def name(token: int) -> str:
        return repr(texts([token])[0])

    lines = [*_opening(seen, name), "", *in_short(seen), "", *wrapped(LEGEND)]
    heads = {(head.layer, head.head): head for head in seen.heads}
    site = ""
    pending: list[HeadSeen] = []
    for node in seen.nodes:
        here = _site(node.name)
        if here != site:
            if not here.endswith((".q", ".k", ".v")):
                lines += _heads(pending, seen, name)
                pending = []
            layer, _, kind = here.partition(".")
            lines += ["", f"LAYER {layer}: {SITES[kind]}"]
            if kind == "attn.v":
                pending = [head for (of, _), head in heads.items() if of == int(layer)]
            site = here
        lines += _node(node, name, seen)
    lines += [*_heads(pending, seen, name), "", *_answer(seen), "", *_distrust(seen, name)]
    return "\n".join(lines) + "\n"


def to_numbers(seen: Seen) -> dict[str, Any]:
    """Every number of the text, for JSON."""
    numbers = asdict(seen)
    for node, told in zip(seen.nodes, numbers["nodes"], strict=True):
        for where in ("task", "corpus"):
            found = getattr(node, where)
            if found is not None:
                told[where] |= {"selectivity": found.selectivity, "constant": found.constant}
    return numbers | {"separated_by": [asdict(part) for part in separated(seen)]}


def _site(node: str) -> str:
    return ".".join(node.split(".")[:3])


def _opening(seen: Seen, name: Callable[[int], str]) -> Iterator[str]:
    losses = seen.losses
    yield f"{seen.task}: {seen.description}"
    yield from wrapped(
        f"{len(seen.nodes)} nodes and {sum(len(node.edges) for node in seen.nodes)} edges of the model "
        f"{seen.model_hash[:12]}. Loss {losses['circuit']:.3f} nats, {100 * seen.accuracy:.1f}% of {2 * seen.n_pairs} "
        f"validation prompts right; the whole model's {losses['unpruned']:.3f}; the circuit's without "
        f"calibration {losses.get('circuit_uncalibrated', float('nan')):.3f} (a coin: 0.693)."
    )
    if seen.answers is not None:
        yield f"The answers: A is {name(seen.answers[0])}, B is {name(seen.answers[1])}."
    else:
        yield "The answers A and B are other tokens in other pairs; A is right for the first prompt of a pair."
    a, b = (" ".join(map(name, tokens)) for tokens in seen.deciding)
    yield (
        f"The prompts of the first pair differ in one place: {a} for A, {b} for B."
        if len(seen.deciding[0]) == 1
        else f"The prompts of the first pair differ in {len(seen.deciding[0])} places: {a} for A, {b} for B."
    )
    yield from wrapped(
        f"It answers A where {seen.scale:.4g} * (logit of A - logit of B) {signed(seen.shift)} is above 0: on average "
        f"{two(seen.difference)}."
    )


def _node(node: NodeSeen, name: Callable[[int], str], seen: Seen) -> Iterator[str]:
    yield from wrapped(f"{node.name}{_equation(node)}", "  ", " " * 8)
    if node.folded:
        yield f"      its edges from idle nodes always add {signed(node.folded)}: a part of its bias on this task"
    if node.task.constant:
        what = "idle, folded into the bias of what it reaches" if node.idle else "how much its head moves of it varies"
        yield f"      always {value(node.task.resting)} on the task: {what}"
    else:
        yield from wrapped(f"task: {_responses(node.task, name)}", " " * 6, " " * 12)
        due = f"always {value(node.at_answer[0])}" if node.constant_at_answer else two(node.at_answer)
        yield f"      deciding {two(node.on_deciding)}; answer {due}"
    if node.corpus is not None:
        yield from wrapped(f"corpus: {_responses(node.corpus, name)}", " " * 6, " " * 12)


def _equation(node: NodeSeen) -> str:
    if node.bias is None:
        return ""
    terms = [f"{signed(weight)} * {_short(source)}" for source, weight in node.edges]
    neuron = _site(node.name).endswith("post_act")
    summed = " ".join([*terms, signed(node.bias)])
    return f" = activation({summed})" if neuron else f" = {summed}"


def _short(source: str) -> str:
    """A source's name without layer and block, which are its target's."""
    return source.split(".", 2)[2]


def _responses(found: Responses, name: Callable[[int], str]) -> str:
    if found.constant:
        return f"always {value(found.resting)}"
    strongest = ", ".join(f"{name(r.token)} {value(r.value)} ({percent(r.share)})" for r in found.strongest)
    rests = f"{value(found.resting)} but at {percent(found.active)} of positions"
    if found.active > EVERYWHERE:
        rests = f"around {value(found.resting)} everywhere"
    return f"{rests}: {strongest}; selectivity {found.selectivity:.2f}"


def _heads(heads: list[HeadSeen], seen: Seen, name: Callable[[int], str]) -> Iterator[str]:
    for head in heads:
        yield f"  HEAD {head.layer}.{head.head} moves {', '.join(map(_short, head.channels))}"
        if head.query_constant and head.key_constant:
            yield "      its query and key are constant: it takes the average of all tokens so far, alike"
        elif head.query_constant:
            yield "      its query is constant: it looks for the same from every position"
        yield from _attended("in the circuit", head.circuit, name)
        yield from _attended("in the model", head.model, name)
        for channel, moved in zip(head.channels, head.moved, strict=True):
            yield f"      to the answer's position it brings, of {_short(channel)}: {two(moved)}"


def _attended(where: str, found: Attended, name: Callable[[int], str]) -> list[str]:
    most = [", ".join(f"{name(token)} {percent(share)}" for token, share in tokens) for tokens in found.tokens]
    return wrapped(
        f"{where}, the answer's position attends to A: {most[0]}; B: {most[1]}; sink {percent(sum(found.sink) / 2)}; "
        f"over {found.keys:.1f} keys; deciding tokens {percent(found.deciding[0])} > {percent(found.deciding[1])}, "
        f"none more in {percent(found.deciding_most)} of prompts",
        " " * 6,
        " " * 12,
    )


def _answer(seen: Seen) -> Iterator[str]:
    parts = seen.parts
    yield "THE ANSWER: logit of A - logit of B, before calibration, as a sum"
    rows = [
        *((f"what {node} writes", means) for node, means in parts.writes),
        ("what ablated nodes write (constants, divided by the norm)", parts.ablated),
        ("the last token's own embedding", parts.embedding),
        ("biases", parts.biases),
        ("bigram table, of the last token", parts.bigram),
        ("rest (ReLU or AbsTopK of the stream)", parts.rest),
    ]
    yield f"  {'':58}{'A':>9}{'B':>9}{'A less B':>11}"
    for what, (a, b) in [*((w, m) for w, m in rows if max(map(abs, m)) >= 5e-5), ("sum", parts.total)]:
        yield f"  {what:58}{a:+9.3f}{b:+9.3f}{a - b:+11.3f}"
    yield from wrapped(
        f"Only what differs between A and B decides; the shift {signed(seen.shift)} corrects the rest. The whole "
        f"model's sum is {two(seen.model_difference)}."
    )


def _distrust(seen: Seen, name: Callable[[int], str]) -> Iterator[str]:
    yield "WHAT THE EDGES DO NOT COUNT, AND WHERE CIRCUIT AND MODEL DIFFER"
    told = [f"Nodes outside the circuit take their {seen.ablation} ablation values, which its biases and writes hold."]
    told.append(
        "Not counted as edges: embedding and unembedding entries at these channels, the last token's own embedding, "
        "biases, sinks" + (", and the bigram table." if seen.parts.bigram != (0.0, 0.0) else ".")
    )
    by_token: dict[int, list[str]] = {}
    for token, node, weight in seen.embeddings:
        by_token.setdefault(token, []).append(f"{signed(weight)} in channel {node.rpartition('.')[2]}")
    for token in sorted({*seen.deciding[0], *seen.deciding[1]}):
        entries = ", ".join(by_token.get(token, ["no entry in the channels it reads"]))
        told.append(f"Embedding of {name(token)}: {entries}.")
    idle = [node.name for node in seen.nodes if node.idle]
    if idle:
        told.append(
            f"Idle, constant on the task, are {len(idle)} of {len(seen.nodes)} nodes, whose edges only add to biases: "
            f"{', '.join(idle)}."
        )
    uncounted = [source for node in seen.nodes for source, _ in node.edges if source in idle]
    if uncounted:
        told.append(f"Edges that leave idle nodes: {len(uncounted)}.")
    for head in seen.heads:
        told += _compared(head, seen)
    gap = seen.losses["circuit"] - seen.losses["unpruned"]
    if gap < 0:
        told.append(
            f"The circuit's loss is {-gap:.3f} nats below the whole model's, but its answers are calibrated, the "
            "model's not."
        )
    for sentence in told:
        yield from wrapped(sentence, "  - ", "    ")


def _compared(head: HeadSeen, seen: Seen) -> Iterator[str]:
    circuit, model, what = head.circuit, head.model, f"Head {head.layer}.{head.head}"
    if max(circuit.keys, model.keys) > TWICE * min(circuit.keys, model.keys):
        yield (
            f"{what} spreads its attention over {circuit.keys:.1f} keys in the circuit, over {model.keys:.1f} in the "
            f"model (of {seen.mean_length:.1f} tokens in a prompt)."
        )
    shares = [sum(found.deciding) / 2 for found in (circuit, model)]
    if max(shares) > 0.1 and max(shares) > TWICE * min(shares):
        yield (
            f"{what} gives the deciding tokens {percent(shares[0])} of its attention in the circuit, "
            f"{percent(shares[1])} in the model."
        )
