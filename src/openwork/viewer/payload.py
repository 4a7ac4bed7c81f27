"""What the page is told: one frozen dataclass, written as JSON. Its fields are the schema, of which ``VERSION`` is the
number.

The modules in ``static/`` read this and nothing else. Tokens travel as ids, their texts once, in ``texts``. Activations
and weights are rounded to 5 significant digits; a number that is not finite becomes null.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

VERSION = 1
DIGITS = 5


@dataclass(frozen=True)
class Window:
    """A stretch of the corpus around the place where a node is most active."""

    tokens: list[int]
    values: list[float]
    """The node's activation in the model at each token."""
    peak: int
    """Which of `tokens` is the most active one."""


@dataclass(frozen=True)
class NodeView:
    """One node of the circuit and what was seen of it."""

    name: str
    site: str
    layer: int
    kind: str
    """The site without its layer, such as ``mlp.post_act``."""
    index: int
    """Channel within the site; for residual reads and writes, the channel of the residual stream."""
    head: int | None
    channel: int | None
    """Channel within the head."""
    ablated: float
    """The value that the node takes where it is ablated."""
    active: float
    """Fraction of the corpus positions looked at where it is not zero."""
    positive: list[Window]
    """Texts with its largest activations, the largest first."""
    negative: list[Window]
    """Texts with its most negative activations, the most negative first."""
    model: list[list[float]]
    """On the example pair, its activation (member, position) in the whole model."""
    circuit: list[list[float]]
    """The same, in the circuit, where everything else is ablated."""


@dataclass(frozen=True)
class HeadView:
    """One head with channels in the circuit; patterns are (member, query, key) on the example pair."""

    layer: int
    head: int
    model: list[list[list[float]]]
    circuit: list[list[list[float]]]


@dataclass(frozen=True)
class Answers:
    """How one runner, the model or the circuit, answers one member of the example pair."""

    right: float
    """Probability of the right answer among all tokens, before calibration."""
    wrong: float
    of_two: float
    """Probability of the right answer among the two answers; the circuit's is calibrated. The loss is -ln of it."""


@dataclass(frozen=True)
class MemberView:
    """One member of the example pair."""

    tokens: list[int]
    """The prompt; its last token is where the answer is due."""
    right: int
    wrong: int
    model: Answers
    circuit: Answers


@dataclass(frozen=True)
class ModelView:
    """The model's identity and wiring."""

    hash: str
    n_layers: int
    d_model: int
    n_heads: int
    d_head: int
    d_mlp: int
    n_ctx: int
    d_vocab: int
    sink: bool
    bigram: str
    positions: str


@dataclass(frozen=True)
class TaskView:
    """The task, and one pair of it in full."""

    name: str
    description: str
    hash: str
    example: list[MemberView]
    bias: list[float]
    """The unembedding's bias for the right answer of each member."""
    bigram: list[list[float]]
    """The bigram table's logit (member, [right, wrong]) at the last token; zeros where there is no table."""


@dataclass(frozen=True)
class CircuitView:
    """The circuit's own numbers."""

    ablation: str
    target: float
    reached: bool
    losses: dict[str, float]
    scale: float
    shift: float
    seed: int
    n_pairs: int
    n_possible_nodes: int
    n_possible_edges: int
    tried: list[dict[str, Any]]


@dataclass(frozen=True)
class Payload:
    """All that the page shows."""

    version: int
    model: ModelView
    task: TaskView
    circuit: CircuitView
    nodes: list[NodeView]
    """In forward order; edges and weights speak of them by their place here."""
    edges: list[tuple[int, int, float]]
    """Source, target, weight."""
    embedding: list[tuple[int, int, float]]
    """Token, residual channel, weight: non-zero entries for the example's tokens and channels read in the circuit."""
    unembedding: list[tuple[int, int, float]]
    """Residual channel, token, weight: non-zero entries of the channels that the circuit writes and the two answers."""
    heads: list[HeadView]
    card: dict[str, Any] | None
    texts: dict[str, str]
    """The text of every token that occurs above, by its id."""
    n_positions: int
    """Corpus positions behind the nodes' texts."""


def to_json(payload: Payload) -> str:
    """The payload as JSON that can stand inside a ``script`` element: ASCII, with ``<``, ``>`` and ``&`` as escapes."""
    text = json.dumps(_plain(payload), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _plain(value: Any) -> Any:
    """`value` as lists, dicts and rounded numbers."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
