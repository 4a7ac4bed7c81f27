"""Expressions: each function gives the text of one, made of literals and of names that are defined."""

from __future__ import annotations

from openwork.corpus.idioms.program import Program
from openwork.corpus.idioms.words import NOUNS

OPERATORS = ("+", "-", "*", "+", "//", "%")
COMPARISONS = (">", "<", "==", ">=", "<=", "!=")
SEPARATORS = (",", ", ", " ", ":", "-", "/", "=", ";")
TESTS = ("startswith", "endswith")
CHANGES = ("strip", "lower", "upper", "title")


def integer(p: Program) -> str:
    draw = p.random()
    return str(int(10 * draw / 0.7)) if draw < 0.7 else str(int(100 * p.random()))


def number(p: Program) -> str:
    """A number: a literal, a name, a sum of two, or a length."""
    draw = p.random()
    name = p.known("number")
    if name is None or draw < 0.3:
        things = p.known("list")
        return f"len({things})" if things and draw < 0.1 else integer(p)
    if draw < 0.6:
        return name
    other = p.known("number") if draw > 0.8 else None
    return f"{name} {p.pick(OPERATORS)} {other or int(1 + 9 * p.random())}"


def string(p: Program) -> str:
    """A string literal."""
    return p.quoted(p.phrase())


def text(p: Program) -> str:
    """A text: a literal, a name, a sum, an f-string, or a changed text."""
    draw = p.random()
    name = p.known("text")
    if draw < 0.35:
        return string(p)
    if draw < 0.5:
        return f_string(p)
    if name is None:
        things = p.known("list")
        return f"{p.quoted(p.pick(SEPARATORS))}.join({things})" if things else f"str({number(p)})"
    if draw < 0.75:
        return name
    if draw < 0.85:
        return f"{name} + {string(p)}" if draw < 0.8 else f"{string(p)} + {name}"
    if draw < 0.92:
        return f"{name}.{p.pick(CHANGES)}()"
    return f"{name}.replace({string(p)}, {string(p)})"


def f_string(p: Program) -> str:
    name = p.known("text") or p.known("number") or p.known("any")
    if name is None:
        return "f" + p.quoted(f"{p.word(NOUNS)} {{{integer(p)}}}")
    other = p.known("number")
    draw = p.random()
    if other and draw < 0.3:
        return "f" + p.quoted(f"{{{name}}}: {{{other}}}")
    if draw < 0.6:
        return "f" + p.quoted(f"{p.phrase()} {{{name}}}")
    return "f" + p.quoted(f"{p.word(NOUNS)}: {{{name}}} {p.word(NOUNS)}")


def plain(p: Program) -> str:
    """Bytes or raw text, in which nothing is put."""
    return p.pick("br") + p.quoted(p.phrase())


def negation(p: Program) -> str:
    """Whether a call gives nothing."""
    return f"not {call(p)}"


def a_lambda(p: Program) -> str:
    """A function of one argument or two, without a name."""
    given = [p.new_name() for _ in range(2 if p.chance(0.3) else 1)]
    made = (
        f"{' + '.join(given)} + {integer(p)}",
        f"{given[0]} {p.pick(OPERATORS)} {integer(p)}",
        f"{given[-1]}[{int(3 * p.random())}]",
        f"{given[0]} {p.pick(COMPARISONS)} {integer(p)}",
        f"{given[0]}.{p.pick(CHANGES)}()",
        f"-{given[-1]}",
    )
    return f"lambda {', '.join(given)}: {p.pick(made)}"


def conditional(p: Program) -> str:
    """One of two values, by a test: often of names alone."""
    one, other = (_side(p) for _ in range(2))
    return f"{one} if {test(p)} else {other}"


def _side(p: Program) -> str:
    draw = p.random()
    name = p.anything()
    if name and draw < 0.55:
        return name if draw < 0.35 else f"{name} {p.pick('+-*')} {int(1 + 3 * p.random())}"
    return p.pick((call, string, number))(p)


def test(p: Program) -> str:
    """What ``if`` and ``elif`` ask: often a name alone, otherwise a condition."""
    name = p.anything()
    return name if name and p.chance(0.35) else condition(p)


def element(p: Program) -> str | None:
    """An element or attribute of something that is defined; None if nothing is."""
    draw = p.random()
    things, table, thing = p.known("list"), p.known("dict"), p.known("any")
    if things and draw < 0.45:
        return f"{things}[{p.known('number') or integer(p) if draw < 0.2 else integer(p)}]"
    if table and draw < 0.7:
        return f"{table}[{p.known('text') or p.key() if draw < 0.6 else p.key()}]"
    if thing is None:
        return None
    if draw < 0.85:
        return f"{thing}.{p.word(NOUNS)}"
    return f"{thing}[{p.known('number') or integer(p)}]{f'[{integer(p)}]' if draw > 0.95 else ''}"


def value(p: Program) -> str:
    """Something simple of any type."""
    draw = p.random()
    if draw < 0.4:
        return number(p)
    if draw < 0.75:
        return text(p)
    return p.known("any") or p.pick(("None", "True", "False"))


def condition(p: Program) -> str:
    """Something to test."""
    draw = p.random()
    part = element(p) if p.chance(0.25) else None
    if part:
        return f"{part} {p.pick(('==', '==', '!=', '>'))} {number(p)}"
    word, count, things = p.known("text"), p.known("number"), p.known("list") or p.known("set") or p.known("dict")
    if count and draw < 0.35:
        return f"{count} {p.pick(COMPARISONS)} {number(p)}"
    if word and draw < 0.6:
        if draw < 0.4:
            return f"{word}.{p.pick(TESTS)}({string(p)})"
        return f"{word} in {things}" if things and draw < 0.5 else f"{word} {p.pick(('==', '!='))} {string(p)}"
    if things and draw < 0.8:
        if draw < 0.7:
            return f"len({things}) {p.pick(COMPARISONS)} {integer(p)}" if draw < 0.65 else f"not {things}"
        return f"{string(p)} in {things}" if draw < 0.75 else f"{number(p)} not in {things}"
    anything = p.known("any") or word or count
    if anything is None:
        return f"{integer(p)} {p.pick(COMPARISONS)} {integer(p)}"
    return f"{anything} is None" if draw < 0.85 else f"{anything} is not None" if draw < 0.92 else anything


def numbers(p: Program, least: int = 1) -> str:
    """Numbers with commas between."""
    return ", ".join([integer(p) for _ in range(least + int(4 * p.random()))])


def words(p: Program, least: int = 1) -> str:
    """Names with commas between, or strings that share one mark."""
    mark = p.mark()
    return ", ".join([mark + p.word(NOUNS) + mark for _ in range(least + int(4 * p.random()))])


def items(p: Program) -> str:
    """What a list holds: numbers, strings, or names."""
    draw = p.random()
    if draw < 0.5:
        return numbers(p)
    if draw < 0.75:
        return words(p)
    names = [
        p.known("number") or integer(p),
        p.known("text") or p.known("any") or integer(p),
        p.known("any") or integer(p),
    ]
    return ", ".join(names[: 1 + int(3 * p.random())])


def a_list(p: Program) -> str:
    """A list on one line: flat, with lists at its start, middle or end, or of lists only."""
    draw = p.random()
    if draw < 0.4:
        return f"[{items(p)}]"
    if draw < 0.7:
        return f"[{', '.join([f'[{items(p)}]' for _ in range(1 + int(3 * p.random()))])}]"
    if draw < 0.8:
        return f"[{items(p)}, [{items(p)}]]"
    if draw < 0.9:
        return f"[[{items(p)}], {items(p)}]"
    return f"[{items(p)}, [{items(p)}], {items(p)}]"


def a_dict(p: Program) -> str:
    """A dict on one line; its keys are strings, numbers, or names."""
    draw = p.random()

    def key() -> str:
        return p.key() if draw < 0.5 else p.anything() or integer(p) if draw < 0.75 else integer(p)

    pairs = [f"{key()}: {number(p) if p.chance(0.6) else string(p)}" for _ in range(1 + int(4 * p.random()))]
    return f"{{{', '.join(pairs)}}}"


def arguments(p: Program, count: int) -> str:
    """`count` arguments for a call."""
    return ", ".join([string(p) if p.chance(0.4) else value(p) for _ in range(count)])


def call(p: Program) -> str:
    """A call of a function that the program has defined, or of a built-in one."""
    if p.functions and p.chance(0.7):
        name, count = p.pick(p.functions)
        return f"{name}({arguments(p, count)})"
    things = p.known("list")
    if things and p.chance(0.6):
        return f"{p.pick(('sum', 'max', 'min', 'sorted', 'len', 'set'))}({things})"
    return f"{p.pick(('str', 'int', 'len', 'float', 'repr', 'input'))}({string(p)})"


def comprehension(p: Program, things: str) -> str:
    item = p.new_name()
    if p.chance(0.6):
        return _counted(p, item, things)
    condition = f" if {item} {p.pick(COMPARISONS)} {integer(p)}" if p.chance(0.5) else ""
    made = f"{item} {p.pick(OPERATORS)} {int(1 + 9 * p.random())}" if p.chance(0.5) else item
    return f"{made} for {item} in {things}{condition}"


def _counted(p: Program, item: str, things: str) -> str:
    """A comprehension over numbers, or over `things` and their numbers."""
    count = p.new_name()
    if p.chance(0.5):
        return (
            f"{p.pick((item, count, f'{item} {p.pick(OPERATORS)} {count}'))} for {count}, {item} in enumerate({things})"
        )
    known = p.known("number")
    made = f"{known} {p.pick(OPERATORS)} {count}" if known and p.chance(0.6) else count
    end = f"len({things})" if p.chance(0.3) else integer(p)
    return f"{made} for {count} in range({end})"
