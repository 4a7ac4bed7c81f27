"""What was seen of a circuit, as text: from the tokens to the answer, and what to distrust."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from textwrap import wrap

from openwork.explain.responses import Responses
from openwork.explain.seen import Attended, HeadSeen, NodeSeen, Seen

WIDTH = 120
SHARP, FLAT = 0.5, 0.8
"""A head is sharp where it spreads its attention over at most this share of the keys, flat from that share on."""
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
LEGEND = """How to read. A node rests at its median over all positions; its response is how far it is from there. Behind a \
token stand the node's mean value at it and the share of all its response that falls on it; their sum is its selectivity \
(1: these tokens alone, 0: everything a little). Task: in the circuit, over the prompts. Corpus: in the whole model. Edges \
are the terms after the equals sign; the number alone is the bias with all that ablated nodes add. After edges come \
RMSNorm, AbsTopK and the activation function as in the model. A > B: the mean value where the answer is due, in prompts \
whose right answer is A, then B."""


def to_text(seen: Seen, texts: Callable[[Sequence[int]], list[str]]) -> str:
    """The whole explanation; `texts` gives the text of each of some tokens (`Tokenizer.tokens`)."""

    def name(token: int) -> str:
        return repr(texts([token])[0])

    lines = [*_opening(seen, name), "", *_wrapped(LEGEND)]
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


def _site(node: str) -> str:
    return ".".join(node.split(".")[:3])


def _opening(seen: Seen, name: Callable[[int], str]) -> Iterator[str]:
    losses = seen.losses
    yield f"{seen.task}: {seen.description}"
    yield from _wrapped(
        f"{len(seen.nodes)} nodes and {sum(len(node.edges) for node in seen.nodes)} edges of the model "
        f"{seen.model_hash[:12]}. Loss {losses['circuit']:.3f} nats, {100 * seen.accuracy:.1f} % right, on "
        f"{2 * seen.n_pairs} validation prompts; the whole model's {losses['unpruned']:.3f}; the circuit's without "
        f"calibration {losses.get('circuit_uncalibrated', float('nan')):.3f} (a coin: 0.693)."
    )
    if seen.answers is not None:
        yield f"The answers: A is {name(seen.answers[0])}, B is {name(seen.answers[1])}."
    else:
        yield "The answers A and B are other tokens in other pairs; A is right for the first prompt of a pair."
    a, b = (" ".join(map(name, tokens)) for tokens in seen.deciding)
    yield f"The prompts of the first pair differ in one place: {a} for A, {b} for B." if len(
        seen.deciding[0]
    ) == 1 else f"The prompts of the first pair differ in {len(seen.deciding[0])} places: {a} for A, {b} for B."
    yield from _wrapped(
        f"It answers A where {seen.scale:.3f} * (logit of A - logit of B) {_signed(seen.shift, 3)} is above 0: on average "
        f"{_two(seen.difference)}."
    )


def _node(node: NodeSeen, name: Callable[[int], str], seen: Seen) -> Iterator[str]:
    equation = _equation(node)
    still = ""
    if node.task.constant:
        still = f"always {_value(node.task.resting)} on the task: a part of the biases it reaches"
    elif node.constant_at_answer:
        still = f"the same at every answer, {_value(node.at_answer[0])}"
    else:
        still = f"at the answer {_two(node.at_answer)}"
    yield f"  {node.name}{equation}"
    if node.folded:
        yield f"      of its edges, those from constant nodes add {_signed(node.folded)} always"
    if node.task.constant:
        yield f"      {still}"
    else:
        yield f"      task: {_responses(node.task, name)}; {still}"
    if node.corpus is not None:
        yield f"      corpus: {_responses(node.corpus, name)}"


def _equation(node: NodeSeen) -> str:
    if node.bias is None:
        return ""
    terms = [f"{_signed(weight, 3)} * {_short(source)}" for source, weight in node.edges]
    neuron = _site(node.name).endswith("post_act")
    summed = " ".join([*terms, _signed(node.bias, 3)])
    return f" = activation({summed})" if neuron else f" = {summed}"


def _short(source: str) -> str:
    """A source's name without layer and block, which are its target's."""
    return source.split(".", 2)[2]


def _responses(found: Responses, name: Callable[[int], str]) -> str:
    if found.constant:
        return f"always {_value(found.resting)}"
    strongest = ", ".join(f"{name(r.token)} {_value(r.value)} ({_percent(r.share)})" for r in found.strongest)
    return (
        f"rests at {_value(found.resting)}, elsewhere at {_percent(found.active)} of positions: {strongest}; "
        f"selectivity {found.selectivity:.2f}"
    )


def _heads(heads: list[HeadSeen], seen: Seen, name: Callable[[int], str]) -> Iterator[str]:
    for head in heads:
        yield f"  HEAD {head.layer}.{head.head} moves {', '.join(map(_short, head.channels))}; from the answer's position it attends"
        yield f"      in the circuit: {_attended(head.circuit, name)}"
        yield f"      in the model: {_attended(head.model, name)}"
        for channel, moved in zip(head.channels, head.moved, strict=True):
            yield f"      what arrives of {_short(channel)}: {_two(moved)}"
        if head.query_constant and head.key_constant:
            yield "      its query and key are constant: it attends to everything alike, an average over all tokens so far"
        elif head.query_constant:
            yield "      its query is constant: it looks for the same from every position"


def _attended(found: Attended, name: Callable[[int], str]) -> str:
    def most(member: int) -> str:
        return ", ".join(f"{name(token)} {_percent(share)}" for token, share in found.tokens[member])

    return (
        f"A {most(0)}; B {most(1)}; sink {_percent(sum(found.sink) / 2)}; deciding tokens "
        f"{_percent(found.deciding[0])} > {_percent(found.deciding[1])}, first in {_percent(found.deciding_most)} of "
        f"prompts; spread over {found.keys:.1f} keys"
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
    yield from _wrapped(
        f"Only what differs between A and B decides; the rest is corrected by the shift {_signed(seen.shift, 3)}. The whole "
        f"model's sum is {_two(seen.model_difference)}."
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
        by_token.setdefault(token, []).append(f"{_signed(weight, 3)} in channel {node.rpartition('.')[2]}")
    for token in sorted({*seen.deciding[0], *seen.deciding[1]}):
        entries = ", ".join(by_token.get(token, ["no entry in the channels it reads"]))
        told.append(f"Embedding of {name(token)}: {entries}.")
    idle = [node.name for node in seen.nodes if node.task.constant]
    if idle:
        told.append(
            f"{len(idle)} of {len(seen.nodes)} nodes are constant on the task, so the edges from them only add to biases: "
            f"{', '.join(idle)}."
        )
    uncounted = [source for node in seen.nodes for source, _ in node.edges if source in idle]
    if uncounted:
        told.append(f"{len(uncounted)} edges leave constant nodes.")
    for head in seen.heads:
        told += _compared(head, seen)
    gap = seen.losses["circuit"] - seen.losses["unpruned"]
    if gap < 0:
        told.append(
            f"The circuit's loss is {-gap:.3f} nats below the whole model's: it is calibrated, the model is not; it is no "
            "better circuit for that."
        )
    for sentence in told:
        yield from _wrapped(sentence, "  - ", "    ")


def _compared(head: HeadSeen, seen: Seen) -> Iterator[str]:
    circuit, model = head.circuit, head.model
    keys = seen.mean_length
    if circuit.keys >= FLAT * keys and model.keys <= SHARP * keys:
        yield (
            f"Head {head.layer}.{head.head} attends to nearly everything alike in the circuit (over {circuit.keys:.1f} of "
            f"{keys:.1f} keys), where the model attends sharply (over {model.keys:.1f})."
        )
    low, high = sorted((sum(circuit.deciding) / 2, sum(model.deciding) / 2))
    if high > 0.1 and high > 2 * low:
        more = "more" if sum(circuit.deciding) > sum(model.deciding) else "less"
        yield (
            f"Head {head.layer}.{head.head} attends {more} to the deciding tokens in the circuit "
            f"({_percent(sum(circuit.deciding) / 2)}) than in the model ({_percent(sum(model.deciding) / 2)})."
        )


def _two(means: tuple[float, float]) -> str:
    return f"{_value(means[0])} > {_value(means[1])}"


def _value(x: float) -> str:
    return "0" if abs(x) < 5e-4 else f"{x:+.3g}"


def _signed(x: float, digits: int = 3) -> str:
    return f"{'-' if x < 0 else '+'} {abs(x):.{digits}g}"


def _percent(x: float) -> str:
    return f"{100 * x:.0f} %" if x >= 0.01 or x == 0 else f"{100 * x:.1f} %"


def _wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False)
