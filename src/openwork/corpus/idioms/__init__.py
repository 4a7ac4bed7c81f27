"""An endless stream of small, simple, repetitive Python programs: the simple half of the paper's data (2.1), made here.

A little grammar with weights: a program is a row of imports, functions, classes and statements (this module), made of
statements (`statements`, `blocks`) and expressions (`expressions`) over shared `words`. Every program parses, and no
name is used before it is defined. What the tasks ask for occurs often and cannot be told by other means: strings
begin with either mark, each as likely wherever it stands; a name says nothing of what it holds; lists nest at their
start, middle and end, so that depth alone tells ``]`` from ``]]``; functions and variables share their names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from openwork.corpus.idioms import expressions as e
from openwork.corpus.idioms.blocks import accumulate, body
from openwork.corpus.idioms.program import Program
from openwork.corpus.idioms.statements import STEP, lambda_function, simple
from openwork.corpus.idioms.words import ADJECTIVES, EXCEPTIONS, MODULES, NOUNS, VERBS

FEWEST_LINES, MOST_LINES = 5, 60
DEFAULTS = ("None", "None", "None", "0", "1", "True", "False", "''", '""', "[]", "()")


def documents(seed: int = 0) -> Iterator[str]:
    """Programs without end, 5 to 60 lines each; the same `seed`, the same programs."""
    random = Random(seed)
    while True:
        yield program(random)


def program(random: Random) -> str:
    """One program, drawn from `random`."""
    while True:
        p = Program(random)
        _opening(p)
        for _ in range(1 + int(4 * p.random())):
            p.pick(PARTS)(p)
        if p.chance(0.2):
            _main(p)
        text = p.text()
        if FEWEST_LINES <= text.count("\n") <= MOST_LINES:
            return text


def _opening(p: Program) -> None:
    """At times a docstring, at times imports."""
    if p.chance(0.2):
        p.need(f'"""{p.word(VERBS).capitalize()} the {p.word(NOUNS)}."""')
    if p.chance(0.5):
        p.need(f"import {p.pick(MODULES)}")
        if p.chance(0.4):
            p.need(f"from {p.word(NOUNS)} import {p.function_name()}")
    _space(p)


def _space(p: Program) -> None:
    """The two empty lines around a function or class."""
    while p.lines[-2:] != ["", ""]:
        p.line("", "")


def _main(p: Program) -> None:
    _space(p)
    p.line("", f"if __name__ == {p.quoted('__main__')}:")
    with p.block():
        body(p, STEP, 1)


def _script(p: Program) -> None:
    for _ in range(2 + int(4 * p.random())):
        body(p, "", 2)


def _parameters(p: Program, most: int, defaults: float = 0.25) -> tuple[list[str], str]:
    """New argument names, and the text of them between the brackets of a definition, the last ones with defaults."""
    names = [p.new_name() for _ in range(int((most + 1) * p.random()))]
    for name in names:
        p.names[p.pick(("any", "number", "text", "list"))].append(name)
    shown = list(names)
    if names and p.chance(defaults):
        first = len(names) - 1 if p.chance(0.3) else int(len(names) * p.random())
        shown[first:] = [f"{name}={p.pick(DEFAULTS)}" for name in names[first:]]
    elif names and p.chance(0.1):
        shown = [f"{name}: {p.pick(('int', 'str', 'list', 'set', 'float'))}" for name in names]
    return names, ", ".join(shown)


def _docstring(p: Program, pad: str) -> None:
    if p.chance(0.15):
        p.line(pad, f'"""{p.word(VERBS).capitalize()} the {p.word(ADJECTIVES)} {p.word(NOUNS)}."""')


def _result(p: Program, pad: str) -> None:
    """What a function ends with, if it returns anything."""
    draw = p.random()
    if draw < 0.25:
        things = p.known("set") or p.known("text") or p.known("list") or p.known("dict")
        p.line(pad, f"return {things or e.value(p)}")
    elif draw < 0.4:
        p.line(pad, f"return {p.pick(('True', 'False'))}")
    elif draw < 0.8:
        p.line(pad, f"return {p.pick(RESULTS)(p)}")


def _function(p: Program) -> None:
    _space(p)
    name = p.function_name()
    if p.functions and p.chance(0.1):
        p.line("", f"@{p.pick(p.functions)[0]}")
    with p.function_scope():
        names, shown = _parameters(p, 3)
        p.line("", f"def {name}({shown}):")
        _docstring(p, STEP)
        p.pick(BODIES)(p, STEP)
    p.functions.append((name, len(names)))
    _space(p)


def _plain_body(p: Program, pad: str) -> None:
    body(p, pad, 2)
    _result(p, pad)


def _short_body(p: Program, pad: str) -> None:
    if p.chance(0.5):
        simple(p, pad)
    p.line(pad, f"return {p.pick(RESULTS)(p)}")


def _yielding_body(p: Program, pad: str) -> None:
    """Things made of the things of a list, one after another."""
    things = p.known("list") or p.known("any") or f"range({e.integer(p)})"
    with p.block():
        p.line(pad, f"for {p.define('any')} in {things}:")
        if p.chance(0.5):
            simple(p, pad + STEP)
        p.line(pad + STEP, f"yield {p.pick((e.call, e.call, e.value, e.string))(p)}")


def _accumulating_body(p: Program, pad: str) -> None:
    accumulate(p, pad, 1)
    _result(p, pad)


def _search_body(p: Program, pad: str) -> None:
    """Look for something, and say whether it was there."""
    found, otherwise = p.pick((("True", "False"), ("False", "True")))
    things = p.known("list") or p.known("any")
    with p.block():
        if things and p.chance(0.6):
            p.line(pad, f"for {p.define('any')} in {things}:")
        else:
            p.line(pad, "while True:")
            body(p, pad + STEP, 0)
        p.line(pad + STEP, f"if {e.condition(p)}:")
        p.line(pad + 2 * STEP, f"return {found}")
    p.line(pad, f"return {otherwise}")


def _test_body(p: Program, pad: str) -> None:
    """True or False by conditions."""
    answer = p.chance(0.5)
    for _ in range(1 + int(2 * p.random())):
        p.line(pad, f"if {e.condition(p)}:")
        p.line(pad + STEP, f"return {answer}")
    p.line(pad, f"return {not answer}")


def _class(p: Program) -> None:
    _space(p)
    name = p.class_name()
    base = f"({p.pick(p.classes or EXCEPTIONS)})" if p.chance(0.15) else ""
    p.classes.append(name)
    p.line("", f"class {name}{base}:")
    _docstring(p, STEP)
    with p.function_scope():
        names, shown = _parameters(p, 5, 0.15)
        p.line(STEP, f"def __init__(self{', ' if shown else ''}{shown}):")
        if base and p.chance(0.5):
            p.line(2 * STEP, "super().__init__()")
        private = "_" if p.chance(0.1) else ""
        if p.chance(0.3):
            names.sort()
        for given in names:
            p.line(2 * STEP, f"self.{private}{given} = {given}")
        fields = [f"{private}{given}" for given in names]
        if not names or p.chance(0.3):
            fields.append(p.new_name())
            p.line(2 * STEP, f"self.{fields[-1]} = {p.pick(('[]', '{}', 'set()', '0', 'None', 'False'))}")
    for _ in range(int(3 * p.random())):
        _method(p, fields)
    _space(p)
    p.functions.append((name, len(names)))


def _method(p: Program, fields: list[str]) -> None:
    """A method that uses the object's fields."""
    p.line("", "")
    field = p.pick(fields)
    draw = p.random()
    if draw < 0.15:
        p.line(STEP, "@property")
        p.line(STEP, f"def {p.function_name()}(self):")
        p.line(2 * STEP, f"return self.{field}")
        return
    with p.function_scope():
        _, shown = _parameters(p, 2)
        p.line(STEP, f"def {p.function_name()}(self{', ' if shown else ''}{shown}):")
        p.names["any"].append(f"self.{field}")
        if draw < 0.3:
            p.line(2 * STEP, f"self.{field} = {e.value(p)}")
        elif draw < 0.4:
            p.line(2 * STEP, f"self.{field}.append({e.value(p)})")
        else:
            p.pick(BODIES)(p, 2 * STEP)


def _container(p: Program) -> None:
    """A dataclass: fields with types, nothing else."""
    _space(p)
    p.need("from dataclasses import dataclass")
    p.line("", "@dataclass")
    name, fields = p.class_name(), 1 + int(4 * p.random())
    p.line("", f"class {name}:")
    with p.function_scope():
        for _ in range(fields):
            p.line(STEP, f"{p.new_name()}: {p.pick(('int', 'str', 'float', 'list', 'bool'))}")
    p.functions.append((name, fields))
    _space(p)


def _lambda(p: Program) -> None:
    lambda_function(p, "")


RESULTS = (
    *(e.number, e.text, e.call, e.string, e.a_list, e.number, e.text, e.call, e.string, e.a_list),
    *(e.condition, e.conditional, e.plain, e.f_string, e.negation, e.a_lambda, e.a_dict),
)
"""What a function returns."""
Part = Callable[[Program], None]
PART_WEIGHTS: dict[Part, int] = {_function: 9, _class: 5, _script: 5, _container: 1, _lambda: 1}
BODY_WEIGHTS: dict[Callable[[Program, str], None], int] = {
    _plain_body: 4,
    _short_body: 2,
    _accumulating_body: 3,
    _search_body: 2,
    _test_body: 1,
    _yielding_body: 1,
}
PARTS = tuple(part for part, weight in PART_WEIGHTS.items() for _ in range(weight))
BODIES = tuple(made for made, weight in BODY_WEIGHTS.items() for _ in range(weight))
