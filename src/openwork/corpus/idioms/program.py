"""A program in the making: its lines, the names defined so far by type, and the draws that choose what comes next."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from random import Random
from typing import TypeVar

from openwork.corpus.idioms.words import ADJECTIVES, EXTENSIONS, LETTERS, LOGS, MODULES, NOUNS, PHRASES, VERBS

T = TypeVar("T")
TYPES = ("number", "text", "list", "set", "dict", "any")
"""What a defined name may hold; numbers and texts fill lists, sets and dicts."""
RESERVED = frozenset(dir(builtins)) | frozenset(keyword.kwlist) | frozenset(keyword.softkwlist)
VARIABLES = tuple(word for word in NOUNS if word not in RESERVED)


class Program:
    """Collects ``lines``; ``names[type]`` are the names that may be used where the program stands."""

    def __init__(self, random: Random) -> None:
        self.random = random.random
        self.lines: list[str] = []
        self.imports: dict[str, None] = {}
        """Lines that must come first, in the order in which they were asked for."""
        self.names: dict[str, list[str]] = {kind: [] for kind in TYPES}
        self.functions: list[tuple[str, int]] = []
        """Functions and classes defined so far, with the number of their arguments."""
        self.classes: list[str] = []
        self.used: set[str] = {*MODULES, *LOGS}
        """Names that a new one must not take."""

    def line(self, pad: str, text: str) -> None:
        """Add one line, indented by `pad`."""
        self.lines.append(pad + text)

    def text(self) -> str:
        """The program as it stands."""
        return "\n".join([*self.imports, *self.lines]).strip() + "\n"

    def need(self, line: str) -> None:
        """Have `line` at the top of the program."""
        self.imports[line] = None

    # Draws

    def chance(self, probability: float) -> bool:
        return self.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """One of `options`, each as likely."""
        return options[int(self.random() * len(options))]

    def word(self, words: Sequence[str]) -> str:
        """One of `words`, the first ones more often, as words come in real text."""
        draw = self.random()
        return words[int(draw * draw * len(words))]

    # Names

    def new_name(self) -> str:
        """A name that the program has not used: mostly a noun, at times a letter or two words."""
        draw = self.random()
        if draw < 0.75:
            name = self.word(VARIABLES)
        elif draw < 0.85:
            name = self.pick(LETTERS)
        else:
            name = f"{self.word(ADJECTIVES if draw < 0.93 else NOUNS)}_{self.word(NOUNS)}"
        return self._unused(name, self.new_name)

    def _unused(self, name: str, draw_again: Callable[[], str]) -> str:
        """`name`, marked as used; another draw if it was used already."""
        if name in self.used:
            return draw_again()
        self.used.add(name)
        return name

    def define(self, kind: str) -> str:
        """A new name that holds a `kind` from here on."""
        name = self.new_name()
        self.names[kind].append(name)
        return name

    def define_as(self, name: str, kind: str) -> str:
        """`name` itself, to hold a `kind` from here on, or a new name if it is used already."""
        if name in self.used:
            return self.define(kind)
        self.used.add(name)
        self.names[kind].append(name)
        return name

    def known(self, kind: str) -> str | None:
        """A defined name of this kind, the latest ones more often; None if there is none."""
        names = self.names[kind]
        if not names:
            return None
        draw = self.random()
        return names[-1 - int(draw * draw * len(names))]

    def anything(self) -> str | None:
        """A defined name of any kind, each kind as likely; None if there is none."""
        kinds = [kind for kind in TYPES if self.names[kind]]
        return self.known(self.pick(kinds)) if kinds else None

    def function_name(self) -> str:
        """A new name for a function: a verb and a noun, a verb alone, or at times a noun, as of what it returns."""
        if self.chance(0.3):
            return self._unused(self.word(VARIABLES), self.function_name)
        name = self.word(VERBS)
        if name in RESERVED or self.chance(0.7):
            name = f"{name}_{self.word(NOUNS)}"
        return self._unused(name, self.function_name)

    def class_name(self) -> str:
        """A new name for a class: one noun or two, capitalised."""
        name = self.word(NOUNS).capitalize()
        while self.chance(0.3) or name in self.used:
            name += self.word(NOUNS).capitalize()
        self.used.add(name)
        return name

    @contextmanager
    def block(self) -> Iterator[None]:
        """A block: the names defined in it are forgotten at its end."""
        marks = [(names, len(names)) for names in self.names.values()]
        yield
        for names, mark in marks:
            del names[mark:]

    @contextmanager
    def function_scope(self) -> Iterator[None]:
        """The body of a function: only its own names are seen."""
        outer, used = self.names, self.used
        self.names = {kind: [] for kind in TYPES}
        self.used = set(used)
        yield
        self.names, self.used = outer, used

    # Strings

    def mark(self) -> str:
        """A quotation mark, either as likely wherever a string begins."""
        return "'" if self.random() < 0.5 else '"'

    def quoted(self, content: str) -> str:
        """`content` in quotes of either kind."""
        mark = self.mark()
        return mark + content + mark

    def phrase(self) -> str:
        """What a string says: one word to five, a stock phrase, or a file name."""
        draw = self.random()
        if draw < 0.4:
            return self.word(NOUNS)
        if draw < 0.55:
            return f"{self.word(ADJECTIVES)} {self.word(NOUNS)}"
        if draw < 0.65:
            return f"{self.word(VERBS)} the {self.word(NOUNS)}"
        if draw < 0.75:
            return f"{self.word(NOUNS)} and {self.word(ADJECTIVES)} {self.word(NOUNS)}"
        if draw < 0.83:
            return f"{self.word(VERBS)} {self.word(NOUNS)} {self.word(NOUNS)}"
        if draw < 0.93:
            return self.pick(PHRASES)
        return self.file_name()

    def key(self) -> str:
        """A key or field: one noun, in quotes."""
        return self.quoted(self.word(NOUNS))

    def file_to(self, words: Sequence[str], others: Sequence[str]) -> str:
        """A file named by one of `words`, or at times by another noun that is none of `others` either."""
        stem = self.pick(words)
        if self.chance(0.2):
            stem = self.word(NOUNS)
            while stem in words or stem in others:
                stem = self.word(NOUNS)
        folder = f"{self.word(NOUNS)}/" if self.chance(0.35) else ""
        return f"{folder}{stem}.{self.pick(EXTENSIONS)}"

    def file_name(self) -> str:
        stem = self.word(NOUNS) if self.chance(0.6) else f"{self.word(NOUNS)}/{self.word(NOUNS)}"
        return f"{stem}.{self.pick(EXTENSIONS)}"
