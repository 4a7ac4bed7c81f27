"""Made-up payloads for the page: a quote circuit of 12 nodes and 9 edges, and one of about 150 nodes and 400 edges."""

from __future__ import annotations

import math
import random
import re
from typing import Any

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
    Window,
)

PROMPT = ["<|endoftext|>", "def", " greet", "(", "name", "):", "\n   ", " print", "('", "hello", " there"]
SINGLE, DOUBLE = "')", '")'
CORPUS = [
    *["import", " os", "\n", "x", " =", " open", "('", "data", "/", "in", ".", "txt", "')", " as", " file", ":"],
    *["\n   ", " raise", " ValueError", '("', "bad", " value", ":", " %s", '")', " %", " name", "\n\n", "class"],
    *[
        " Tree",
        ":",
        "\n       ",
        " return",
        " self",
        ".",
        "left",
        " if",
        " a",
        " <",
        " b",
        " &",
        " c",
        " else",
        " None",
    ],
]
SITES = (
    "attn.act_in",
    "attn.q",
    "attn.k",
    "attn.v",
    "attn.resid_delta",
    "mlp.act_in",
    "mlp.post_act",
    "mlp.resid_delta",
)
FLOW = {
    "attn.act_in": ("attn.q", "attn.k", "attn.v"),
    "attn.v": ("attn.resid_delta",),
    "mlp.act_in": ("mlp.post_act",),
    "mlp.post_act": ("mlp.resid_delta",),
}
QUOTE_NODES = (
    *["0.mlp.act_in.41", "0.mlp.act_in.113", "0.mlp.post_act.790", "0.mlp.post_act.405"],
    *["0.mlp.resid_delta.77", "0.mlp.resid_delta.200", "1.attn.act_in.77", "1.attn.act_in.200"],
    *["1.attn.q.head3.ch0", "1.attn.k.head3.ch0", "1.attn.v.head3.ch1", "1.attn.resid_delta.18"],
)
QUOTE_EDGES = [
    *[(0, 2, 1.31), (1, 2, -0.93), (0, 3, 0.71), (1, 3, 0.66), (2, 5, 1.87), (3, 4, -0.55)],
    *[(6, 9, 0.94), (7, 10, -1.42), (10, 11, 2.05)],
]


class Texts:
    """Gives every text an id."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def __getitem__(self, text: str) -> int:
        return self.ids.setdefault(text, len(self.ids))

    def by_id(self) -> dict[str, str]:
        return {str(i): text for text, i in self.ids.items()}


def quote_payload(corpus: list[str] | None = None, **changes: Any) -> Payload:
    """The small circuit; `corpus` are the texts of the tokens of its windows, `changes` other fields of the payload."""
    texts, draw = Texts(), random.Random(1)
    nodes = [_node(name, texts, draw, corpus or CORPUS) for name in QUOTE_NODES]
    embedding = [
        (texts["('"], 41, 0.82),
        (texts['("'], 41, -0.77),
        (texts["('"], 113, 0.31),
        (texts[" print"], 113, -0.12),
    ]
    unembedding = [(18, texts[SINGLE], -1.1), (18, texts[DOUBLE], 1.23)]
    return _payload(texts, draw, nodes, QUOTE_EDGES, embedding, unembedding, **changes)


def large_payload(n_layers: int = 2, per_site: int = 10) -> Payload:
    """About 150 nodes and 400 edges drawn at random."""
    texts, draw = Texts(), random.Random(2)
    names = [
        _name(draw, layer, kind) for layer in range(n_layers) for kind in SITES for _ in range(_count(kind, per_site))
    ]
    names = sorted(set(names), key=lambda name: (int(name[0]), SITES.index(_parse(name)["kind"])))
    nodes = [_node(name, texts, draw, CORPUS) for name in names]
    edges = [
        (i, j, draw.gauss(0, 0.6))
        for i, a in enumerate(nodes)
        for j, b in enumerate(nodes)
        if a.layer == b.layer and b.kind in FLOW.get(a.kind, ()) and draw.random() < 0.2
    ]
    reads = sorted({node.index for node in nodes if node.kind.endswith("act_in")})
    writes = sorted({node.index for node in nodes if node.kind.endswith("resid_delta")})
    embedding = [(texts[t], j, draw.gauss(0, 0.3)) for t in dict.fromkeys(PROMPT) for j in reads if draw.random() < 0.2]
    unembedding = [(j, texts[a], draw.gauss(0, 0.5)) for j in writes for a in (SINGLE, DOUBLE) if draw.random() < 0.4]
    return _payload(texts, draw, nodes, edges, embedding, unembedding)


def _count(kind: str, per_site: int) -> int:
    return {
        "mlp.post_act": 2 * per_site,
        "attn.v": per_site // 2,
        "attn.q": per_site // 2,
        "attn.k": per_site // 2,
    }.get(kind, per_site)


def _name(draw: random.Random, layer: int, kind: str) -> str:
    if kind in ("attn.q", "attn.k", "attn.v"):
        return f"{layer}.{kind}.head{draw.choice([0, 3, 5, 12])}.ch{draw.randrange(16)}"
    return f"{layer}.{kind}.{draw.randrange(1024) if kind == 'mlp.post_act' else draw.randrange(40)}"


def _parse(name: str) -> dict[str, str]:
    match = re.fullmatch(r"(?P<layer>\d+)\.(?P<kind>\w+\.\w+)\.(?:head(?P<head>\d+)\.ch(?P<ch>\d+)|(?P<i>\d+))", name)
    assert match is not None, name
    return match.groupdict()


def _node(name: str, texts: Texts, draw: random.Random, corpus: list[str]) -> NodeView:
    part = _parse(name)
    head, channel = (int(part["head"]), int(part["ch"])) if part["head"] else (None, None)
    index = int(part["i"]) if part["i"] else head * 16 + channel  # pyright: ignore
    example = [[draw.choice([0, 0, 0, draw.gauss(0, 1)]) for _ in PROMPT] for _ in range(2)]
    return NodeView(
        name=name,
        site=f"{part['layer']}.{part['kind']}",
        layer=int(part["layer"]),
        kind=part["kind"],
        index=index,
        head=head,
        channel=channel,
        ablated=draw.gauss(0, 0.05),
        active=draw.random() * 0.2,
        positive=[_window(texts, draw, corpus, 3 - 0.2 * i) for i in range(8)],
        negative=[_window(texts, draw, corpus, -1 + 0.1 * i) for i in range(draw.choice([0, 6]))],
        model=example,
        circuit=[[0.9 * value for value in row] for row in example],
    )


def _window(texts: Texts, draw: random.Random, corpus: list[str], top: float) -> Window:
    start = draw.randrange(max(1, len(corpus) - 28))
    tokens = corpus[start : start + 28]
    peak = min(draw.randrange(6, 24), len(tokens) - 1)
    values = [draw.choice([0.0, 0.0, 0.0, draw.uniform(-0.5, 0.6)]) * abs(top) for _ in tokens]
    values[peak] = top
    return Window([texts[token] for token in tokens], values, peak)


def _head(layer: int, head: int, draw: random.Random) -> HeadView:
    def pattern() -> list[list[float]]:
        rows = []
        for query in range(len(PROMPT)):
            scores = [
                math.exp(draw.gauss(0, 1) + (4 if key == 8 else 0)) if key <= query else 0 for key in range(len(PROMPT))
            ]
            rows.append([score / (sum(scores) + 1) for score in scores])
        return rows

    return HeadView(layer, head, [pattern(), pattern()], [pattern(), pattern()])


def _payload(
    texts: Texts,
    draw: random.Random,
    nodes: list[NodeView],
    edges: list[tuple[int, int, float]],
    embedding: list[tuple[int, int, float]],
    unembedding: list[tuple[int, int, float]],
    **changes: Any,
) -> Payload:
    heads = sorted({(node.layer, node.head) for node in nodes if node.head is not None})
    whole: dict[str, Any] = {
        "version": VERSION,
        "model": ModelView("8c1f" * 16, 2, 256, 16, 16, 1024, 128, 2048, True, "learned", "none"),
        "task": TaskView(
            "single_double_quote",
            "Close a string with the mark that opened it.",
            "77aa" * 16,
            [_member(texts, "('", SINGLE, DOUBLE), _member(texts, '("', DOUBLE, SINGLE)],
            [0.1, -0.2],
            [[0.5, 0.1], [0.1, 0.5]],
        ),
        "circuit": CircuitView(
            *(
                "mean",
                0.15,
                True,
                {"unpruned": 0.093, "circuit": 0.141, "circuit_uncalibrated": 0.172},
                1.31,
                -0.07,
                0,
                256,
            ),
            *(5632, 38411, [{"seed": 0, "reached": True, "loss": 0.141, "nodes": len(nodes), "edges": len(edges)}]),
        ),
        "nodes": nodes,
        "edges": edges,
        "embedding": embedding,
        "unembedding": unembedding,
        "heads": [_head(layer, head, draw) for layer, head in heads],
        "card": card(draw),
        "n_positions": 131072,
    }
    whole.update(changes)
    return Payload(**whole, texts=texts.by_id())


def _member(texts: Texts, opening: str, right: str, wrong: str) -> MemberView:
    prompt = [opening if token == "('" else token for token in PROMPT]
    tokens = [texts[token] for token in prompt]
    return MemberView(tokens, texts[right], texts[wrong], Answers(0.71, 0.04, 0.947), Answers(0.33, 0.08, 0.871))


def card(draw: random.Random | None = None, failed: tuple[str, ...] = ()) -> dict[str, Any]:
    """A card as the faithfulness stage writes it, with the checks named in `failed` failed."""
    draw = draw or random.Random(3)

    def check(name: str, question: str, value: float, control: float, threshold: str) -> dict[str, Any]:
        others = [abs(control + draw.gauss(0, 0.08)) for _ in range(20)]
        return {
            **{"name": name, "question": question, "value": value, "unit": "nats", "control": min(others)},
            **{"control_name": "best of 20 random", "threshold": threshold, "passed": name not in failed},
            "detail": {"random": others, "random_median": sorted(others)[10]},
        }

    templates = [
        {"circuit": 1.66, "model": 0.003, "pairs": 32, "template": "with $name1:\n    <b>$func1(<'|\">$text<?>\n"},
        {"circuit": 0.08, "model": 0.002, "pairs": 1, "template": "$func1(<'|\">$text<?>\n"},
    ]
    checks = [
        check(
            "sufficiency", "with every other node mean-ablated, is the loss at most the target?", 0.141, 0.9, "<= 0.15"
        ),
        check("held-out templates", "does it also do the task in code of other shapes?", 0.19, 0.95, "<= 0.25"),
        check(
            "necessity", "with only the circuit mean-ablated, does the model fail?", 1.04, 0.12, ">= 0.5, random below"
        ),
        check("KL to the full model", "over all next tokens, is it nearer to the full model?", 2.11, 5.3, "< random"),
    ]
    checks[1]["detail"]["templates"] = templates
    return {"checks": checks, "passed": not failed, "seed": 0, "n_nodes": 12, "n_edges": 9}
