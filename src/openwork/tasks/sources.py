"""Where a task's pairs come from: drawn from templates, or written down by the user."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, Protocol

from openwork.tasks.templates import Candidate, Form, Split, Words, draw


class Source(Protocol):
    """Gives pairs as text, before any tokenizer has seen them."""

    def draw(self, split: Split, n: int, random: Random) -> list[Candidate]:
        """At most `n` pairs of `split`."""
        ...

    @property
    def content(self) -> tuple[Any, ...]:
        """All that decides the pairs, as JSON can hold it."""
        ...


@dataclass(frozen=True)
class Templates:
    """Pairs drawn from the templates of a form, with the words of each split."""

    form: Form
    words: Mapping[Split, Words]

    def draw(self, split: Split, n: int, random: Random) -> list[Candidate]:
        templates, words = self.form.of(split), self.words[split]
        return [draw(random.choice(templates), self.form.answers, words, random) for _ in range(n)]

    @property
    def content(self) -> tuple[Any, ...]:
        return vars(self.form), {split: vars(words) for split, words in self.words.items()}


@dataclass(frozen=True)
class Written:
    """Pairs as they stand in a file."""

    pairs: Mapping[Split, tuple[Candidate, ...]]

    def draw(self, split: Split, n: int, random: Random) -> list[Candidate]:
        pairs = self.pairs[split]
        return random.sample(pairs, min(n, len(pairs)))

    @property
    def content(self) -> tuple[Any, ...]:
        return ({split: [_written(pair) for pair in pairs] for split, pairs in self.pairs.items()},)


def _written(pair: Candidate) -> dict[str, Any]:
    """`pair` without its template, of which there is none."""
    return {name: value for name, value in vars(pair).items() if name != "template"}
