"""The circuit in short: backwards from what separates the answers, to the tokens that decide.

Shares are of what separates A from B: a write's part in the difference of the two sums, and a source's part in the
difference of what its target adds up, before AbsTopK and the activation function.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from openwork.explain.numbers import percent, two, wrapped
from openwork.explain.seen import NodeSeen, Seen

LEAST = 0.02
"""Parts below this share are left out."""


@dataclass(frozen=True)
class Separates:
    """A write, its share of what separates A from B, and the sources of its part with their shares of it."""

    write: str
    share: float
    sources: tuple[tuple[str, float], ...]


def separated(seen: Seen) -> list[Separates]:
    """The writes that separate A from B, largest share first."""
    whole = seen.parts.total[0] - seen.parts.total[1]
    nodes = {node.name: node for node in seen.nodes}
    moved = {channel: means for head in seen.heads for channel, means in zip(head.channels, head.moved, strict=True)}
    shares = _shares([(write, a - b) for write, (a, b) in seen.parts.writes], whole)
    found = []
    for write, share in shares:
        ends = [(weight, moved.get(source, nodes[source].at_answer)) for source, weight in nodes[write].edges]
        parts = [weight * (a - b) for weight, (a, b) in ends]
        sources = zip((source for source, _ in nodes[write].edges), parts, strict=True)
        found.append(Separates(write, share, tuple(_shares(list(sources), sum(parts)))))
    return found


def _shares(parts: list[tuple[str, float]], whole: float) -> list[tuple[str, float]]:
    """Parts of the `whole` as shares, largest first, small ones left out."""
    shares = [(name, part / whole if whole else 0.0) for name, part in parts]
    return sorted((named for named in shares if abs(named[1]) >= LEAST), key=lambda named: -abs(named[1]))


def in_short(seen: Seen) -> Iterator[str]:
    """The text of `separated`."""
    nodes, parts = {node.name: node for node in seen.nodes}, separated(seen)
    yield "IN SHORT: what separates A from B, from the answers back to the tokens"
    if not parts:
        yield "  No node's write separates A from B."
    for part in parts:
        yield from wrapped(
            f"{percent(part.share)} is what {part.write} writes: {two(nodes[part.write].at_answer)}", "  "
        )
        for source, share in part.sources:
            yield from wrapped(f"{percent(share)} of it {_says(source, seen, nodes)}", "    ", " " * 8)
    if parts:
        rest = 1 - sum(part.share for part in parts)
        yield f"  {percent(rest)} is the rest: smaller writes, and constants that the norm divides differently."


def _says(source: str, seen: Seen, nodes: dict[str, NodeSeen]) -> str:
    """What one source is and does."""
    node = nodes[source]
    for head in seen.heads:
        if source in head.channels:
            reads = " and ".join(read.split(".", 2)[2] for read, _ in node.edges) or "nothing"
            a, b = head.circuit.deciding
            return (
                f"by {source}: it reads {reads} and is {two(node.on_deciding)} on the deciding tokens, to which head "
                f"{head.layer}.{head.head} gives {percent(a)} > {percent(b)} of the answer's attention, and so brings "
                f"{two(head.moved[head.channels.index(source)])}"
            )
    return f"by {source}: {two(node.at_answer)} at the answer"
