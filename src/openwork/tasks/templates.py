r"""Templates: code with places that vary, from which pairs of prompts are drawn.

    $name1 = $func(<'|">$text<?>\n

``$name1`` is a slot: a kind of word (`Words`) and a number; the same slot takes the same word wherever it stands,
different slots of one template take different names. ``<x|y>`` is the deciding place: x in member A of the pair, y in
member B. ``<?>`` is where the answer is due: the prompt ends before it, and what follows makes the whole code parse.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from openwork.corpus.idioms.program import RESERVED
from openwork.corpus.idioms.words import ADJECTIVES, NOUNS, VERBS
from openwork.errors import UserError

Split = Literal["train", "validation", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "validation", "held_out")
SLOT = re.compile(r"\$([a-z]+)[0-9]*")
CHOICE = re.compile(r"<([^|<>]*)\|([^|<>]*)>")
DUE = "<?>"
VALIDATION_PART = 3
"""One word in so many is kept for validation and held-out prompts; the others serve training."""

TRIES = 1000
"""Draws of a word until one must be new."""

ARGUMENTS = (
    *("args", "kwargs", "default", "encoding", "timeout", "callback", "func", "obj", "parent", "base", "start", "end"),
    *("first", "second", "left", "right", "new", "old", "lines", "values", "names", "items", "keys", "other", "msg"),
    *("info", "fp", "buf", "mask", "offset", "argv", "cmd", "parser", "writer", "reader", "handler", "locale", "kind"),
    *("command", "context", "content", "errors", "flags", "fmt", "filename", "dirname", "method", "attr", "params"),
    *(
        "temp",
        "out",
        "seq",
        "val",
        "pos",
        "res",
        "ctx",
        "loop",
        "proc",
        "family",
        "width",
        "height",
        "x",
        "y",
        "a",
        "b",
    ),
)
"""Names that arguments often have, beside the nouns."""
BEFORE = (
    *("", "", "", "", "", ""),
    "$name91 = $num91\n",
    "$name91 = [$items91]\n",
    "import $name91\n",
    "from $name91 import $name92\n",
    "$name91 = $name92\n",
    "def $func91($name91):\n    return $name91\n",
    "for $name91 in range($num91):\n    $func91($name91)\n",
)
"""Code that may stand before a template."""
BIG = ("def ", "class ", "async ", "@")
"""What has two empty lines around it."""


@dataclass(frozen=True)
class Words:
    """What the slots of one part of the splits may take."""

    name: tuple[str, ...]
    """Variables."""
    arg: tuple[str, ...]
    """Arguments; where they are answers, those that are single tokens."""
    verb: tuple[str, ...]
    """Functions and methods."""
    noun: tuple[str, ...]
    """Things that texts speak of."""
    quality: tuple[str, ...]


def words_of(split: Split) -> Words:
    """The words of a split: validation and held-out share theirs, none of which serves training."""
    keep = [_in_part(split, words) for words in (NOUNS, (*NOUNS, *ARGUMENTS), VERBS, NOUNS, ADJECTIVES)]
    name, arg, verb = (tuple(word for word in words if word not in RESERVED) for words in keep[:3])
    return Words(name, arg, verb, keep[3], keep[4])


def _in_part(split: Split, words: Sequence[str]) -> tuple[str, ...]:
    held = split != "train"
    return tuple(word for word in dict.fromkeys(words) if (zlib.crc32(word.encode()) % VALIDATION_PART == 0) == held)


@dataclass(frozen=True)
class Candidate:
    """One pair as text, before any tokenizer has seen it; each field holds member A's and member B's."""

    prompts: tuple[str, str]
    answers: tuple[str, str]
    suffixes: tuple[str, str]
    """What follows the answer, so that prompt + answer + suffix parses."""
    deciding: tuple[tuple[tuple[int, int], ...], tuple[tuple[int, int], ...]] | None
    """Spans (start, end) of the prompt's characters in the deciding places; None: the one place that differs."""
    template: str = ""
    """What it was drawn from; empty where it was written down."""

    def code(self, member: int) -> str:
        """The whole code of a member (0 or 1): prompt, right answer, suffix."""
        return self.prompts[member] + self.answers[member] + self.suffixes[member]


@dataclass(frozen=True)
class Form:
    """One way to pose a task: its two answers, which may hold slots, and its templates."""

    answers: tuple[str, str]
    templates: tuple[str, ...]
    """Of train and validation."""
    held_out: tuple[str, ...]
    """Other shapes."""

    def __post_init__(self) -> None:
        """Raises ValueError: what a template lacks for `draw`."""
        if isinstance(self.templates, str) or isinstance(self.held_out, str):
            raise ValueError('templates and held_out are tuples of texts, as in ("...",)')
        if isinstance(self.answers, str) or len(self.answers) != 2:
            raise ValueError(f'answers are {self.answers!r}; there are two, as in ("a", "b")')
        for template in (*self.templates, *self.held_out):
            if template.count(DUE) != 1:
                raise ValueError(f"the template {template!r} has {template.count(DUE)} places {DUE}; it needs one")
        for text in (*self.answers, *self.templates, *self.held_out):
            for slot in SLOT.finditer(text):
                if slot[1] not in FILLS:
                    raise ValueError(f"{text!r} has a slot {slot[0]}; slots are ${', $'.join(FILLS)}")

    def of(self, split: Split) -> tuple[str, ...]:
        """The templates of a split."""
        return self.held_out if split == "held_out" else self.templates


def fill(around: Sequence[str], inner: Sequence[str]) -> tuple[str, ...]:
    """Every template of `around` with every one of `inner` where its ``{}`` stands."""
    return tuple(outer.replace("{}", core) for outer in around for core in inner)


def draw(
    template: str, answers: tuple[str, str], words: Words, random: Random, before: Sequence[str] = BEFORE
) -> Candidate:
    """A pair from `template` with one of `before` in front, its slots filled with `words`."""
    filling = _Filling(words, random, template)
    text = filling(_join(filling.pick(before), template))
    due = text.index(DUE)
    (prompt_a, spans_a), (prompt_b, spans_b) = (_member(text[:due], member) for member in (0, 1))
    suffixes = tuple(_member(text[due + len(DUE) :], member)[0] for member in (0, 1))
    return Candidate(
        prompts=(prompt_a, prompt_b),
        answers=(filling(answers[0]), filling(answers[1])),
        suffixes=(suffixes[0], suffixes[1]),
        deciding=(spans_a, spans_b),
        template=template,
    )


def _join(before: str, template: str) -> str:
    """`before`, empty lines as they are usual, and `template`."""
    if not before:
        return template
    if template.startswith(BIG) or before.startswith(BIG):
        return f"{before}\n\n{template}"
    return f"{before}\n{template}" if "import" in before else before + template


def _member(text: str, member: int) -> tuple[str, tuple[tuple[int, int], ...]]:
    """`text` with the choices of one member, and the spans of these."""
    pieces, spans, length, after = [], [], 0, 0
    for choice in CHOICE.finditer(text):
        chosen = choice[member + 1]
        before = text[after : choice.start()]
        pieces += [before, chosen]
        spans.append((length + len(before), length + len(before) + len(chosen)))
        length, after = spans[-1][1], choice.end()
    return "".join([*pieces, text[after:]]), tuple(spans)


class _Filling:
    """The words that the slots of one pair take."""

    def __init__(self, words: Words, random: Random, template: str) -> None:
        self.words, self.random, self.template = words, random.random, template
        self.filled: dict[str, str] = {}
        self.used: set[str] = set()

    def __call__(self, template: str) -> str:
        """`template` with every slot filled."""
        return SLOT.sub(self._slot, template)

    def _slot(self, match: re.Match[str]) -> str:
        if match[0] not in self.filled:
            self.filled[match[0]] = FILLS[match[1]](self)
        return self.filled[match[0]]

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.random() * len(options))]

    def new(self, make: Callable[[], str]) -> str:
        """Something of `make` that no slot has taken yet."""
        for _ in range(TRIES):
            if (made := make()) not in self.used:
                self.used.add(made)
                return made
        raise UserError(f"the template {self.template!r} has more slots of a kind than there are words; use fewer")

    def name(self) -> str:
        return self.new(lambda: self.pick(self.words.name))

    def arg(self) -> str:
        return self.new(lambda: self.pick(self.words.arg))

    def verb(self) -> str:
        return self.new(lambda: self.pick(self.words.verb))

    def func(self) -> str:
        verb = self.verb()
        return verb if self.random() < 0.5 else f"{verb}_{self.pick(self.words.noun)}"

    def title(self) -> str:
        return self.new(lambda: self.pick(self.words.noun).capitalize())

    def noun(self) -> str:
        return self.pick(self.words.noun)

    def text(self) -> str:
        """One word to four."""
        match int(4 * self.random()):
            case 0:
                return self.noun()
            case 1:
                return f"{self.pick(self.words.quality)} {self.noun()}"
            case 2:
                return f"{self.pick(self.words.verb)} the {self.noun()}"
            case _:
                return f"{self.noun()} and {self.pick(self.words.quality)} {self.noun()}"

    def num(self) -> str:
        return str(int(10 ** (1 + (self.random() < 0.3)) * self.random()))

    def mark(self) -> str:
        """A quotation mark."""
        return self.pick(("'", '"'))

    def items(self) -> str:
        """One item to three with commas between: numbers, or names."""
        make = self.num if self.random() < 0.6 else self.name
        return ", ".join([make() for _ in range(1 + int(3 * self.random()))])


FILLS: dict[str, Callable[[_Filling], str]] = {
    kind: getattr(_Filling, kind)
    for kind in ("name", "arg", "verb", "func", "title", "noun", "text", "num", "mark", "items")
}
"""What fills a slot, by its kind."""
