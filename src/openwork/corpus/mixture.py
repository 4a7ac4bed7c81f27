"""What a source text asks for: one source, several one after another, or a mixture with shares."""

from __future__ import annotations

import re
from typing import NamedTuple

from openwork.corpus.sources import is_endless, is_path
from openwork.errors import UserError

WEIGHTED = re.compile(r"(?P<source>.+):(?P<weight>[-+]?[\d.][\d.eE+-]*)")


class Part(NamedTuple):
    """Sources that are read one after another, and their share of the tokens of the corpus."""

    sources: tuple[str, ...]
    share: float

    @property
    def name(self) -> str:
        return ",".join(self.sources)


def parse_mixture(source: str) -> tuple[Part, ...]:
    """The parts of `source`; shares add up to 1, the endless parts come last.

    ``stdlib:0.5,idioms:0.5`` is a mixture of two parts, ``a.py,b.py`` one part of two files. A path that exists is that
    path, whatever commas and colons it has.

    Raises:
        UserError: a weight that is none, some parts with and some without, or a source twice.
    """
    if is_path(source):
        return (Part((source,), 1.0),)
    texts = [text.strip() for text in source.split(",")]
    matches = [WEIGHTED.fullmatch(text) for text in texts]
    names = tuple(match["source"] if match else text for match, text in zip(matches, texts, strict=True))
    if len(set(names)) < len(names):
        raise UserError(f"the source {source!r} names one of its parts twice; name each once")
    if not any(matches):
        if len(names) > 1 and any(map(is_endless, names)):
            raise UserError(f"the source {source!r} has a part without end; give each a weight, such as {names[0]}:0.5")
        return (Part(names, 1.0),)
    if not all(matches):
        raise UserError(f"the mixture {source!r} has parts with and without a weight; give each one, like stdlib:0.5")
    weights = [_weight(match["weight"], source) for match in matches if match]
    parts = [Part((name,), weight / sum(weights)) for name, weight in zip(names, weights, strict=True)]
    return tuple(sorted(parts, key=lambda part: is_endless(part.name)))


def _weight(text: str, source: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise UserError(f"the mixture {source!r} has the weight {text}; weights are numbers greater than 0")
    return weight
