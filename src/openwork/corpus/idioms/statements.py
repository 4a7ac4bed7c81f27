"""Simple statements: each function adds the line or lines of one to a program, indented by `pad`."""

from __future__ import annotations

from collections.abc import Callable

from openwork.corpus.idioms import expressions as e
from openwork.corpus.idioms.program import Program
from openwork.corpus.idioms.words import EXCEPTIONS, LOGS, NOUNS, VERBS

Statement = Callable[[Program, str], None]
STEP = "    "
LEVELS = ("info", "debug", "warning", "error")


def say(p: Program, pad: str) -> None:
    """A call for its effect, mostly with a string in it."""
    draw = p.random()
    if draw < 0.5:
        p.line(pad, f"print({e.string(p) if draw < 0.35 else e.text(p)})")
    elif draw < 0.6:
        p.line(pad, f"print({e.string(p)}, {e.value(p)})")
    elif draw < 0.7:
        log = p.pick(LOGS)
        p.need("import logging")
        if log != "logging":
            p.need(f"{log} = logging.getLogger(__name__)")
        p.line(pad, f"{log}.{p.pick(LEVELS)}({e.string(p)})")
    elif draw < 0.8:
        p.line(pad, f"print({e.call(p)})")
    else:
        p.line(pad, e.call(p))


def assign_number(p: Program, pad: str) -> None:
    made = e.integer(p) if p.chance(0.5) else e.number(p)
    p.line(pad, f"{p.define('number')} = {made}")


def assign_text(p: Program, pad: str) -> None:
    made = e.text(p)
    p.line(pad, f"{p.define('text')} = {made}")


def assign_list(p: Program, pad: str) -> None:
    made = e.a_list(p)
    p.line(pad, f"{p.define('list')} = {made}")


def assign_dict(p: Program, pad: str) -> None:
    made = e.a_dict(p)
    p.line(pad, f"{p.define('dict')} = {made}")


def assign_call(p: Program, pad: str) -> None:
    made = e.call(p)
    p.line(pad, f"{p.define('any')} = {made}")


def change(p: Program, pad: str) -> None:
    """Change something that is defined, or define a number."""
    draw = p.random()
    count, name, things, table = (p.known(kind) for kind in ("number", "text", "list", "dict"))
    if table and draw < 0.3:
        p.line(pad, f"{table}[{p.key()}] = {e.value(p)}" if draw < 0.2 else f"{table}.update({e.a_dict(p)})")
    elif things and draw < 0.5:
        p.line(pad, f"{things}.append({e.value(p)})" if draw < 0.45 else f"{things}.sort()")
    elif name and draw < 0.7:
        p.line(pad, f"{name} += {e.string(p)}" if draw < 0.6 else f"{name} = {name}.{p.pick(e.CHANGES)}()")
    elif count:
        p.line(pad, f"{count} {p.pick(('+=', '-=', '*='))} {int(1 + 9 * p.random())}")
    else:
        assign_number(p, pad)


def get_from_dict(p: Program, pad: str) -> None:
    table = p.known("dict")
    if table is None:
        return assign_dict(p, pad)
    made = p.pick((f"{table}.get({p.key()})", f"{table}[{p.key()}]", f"{table}.get({p.key()}, {e.value(p)})"))
    p.line(pad, f"{p.define('any')} = {made}")


def swap(p: Program, pad: str) -> None:
    one, two = p.known("number"), p.known("number")
    if one is None or one == two:
        one, two = p.define("number"), p.define("number")
        p.line(pad, f"{one}, {two} = {e.integer(p)}, {e.integer(p)}")
    if p.chance(0.7):
        p.line(pad, f"{one}, {two} = {two}, {one}")
    else:
        aside = p.define("number")
        for left, right in ((aside, one), (one, two), (two, aside)):
            p.line(pad, f"{left} = {right}")


def ternary(p: Program, pad: str) -> None:
    made = e.conditional(p)
    p.line(pad, f"{p.define('any')} = {made}")


def assign_plain(p: Program, pad: str) -> None:
    """Name a text in which nothing is put, or one in which something is."""
    made = e.plain(p) if p.chance(0.6) else e.f_string(p)
    p.line(pad, f"{p.define('any')} = {made}")


def assign_function(p: Program, pad: str) -> None:
    """Name a function that has none, or whether a call gives nothing; or call something with either."""
    made = e.a_lambda(p) if p.chance(0.5) else e.negation(p)
    if p.functions and p.chance(0.25):
        before = f"{p.anything() or e.integer(p)}, " if p.chance(0.4) else ""
        p.line(pad, f"{p.pick(p.functions)[0]}({before}{made})")
    else:
        p.line(pad, f"{p.define('any')} = {made}")


def assign_element(p: Program, pad: str) -> None:
    """Change an element or attribute."""
    place = e.element(p)
    if place is None:
        return assign_list(p, pad)
    p.line(pad, f"{place} {p.pick(('=', '=', '=', '+='))} {e.number(p)}")


def reassign(p: Program, pad: str) -> str:
    """Give a value to a name, mostly one that is defined already; it is returned."""
    name = p.anything() if p.chance(0.7) else None
    made = p.pick((e.call, e.call, e.value, e.integer))(p)
    if name is None or "." in name:
        name = p.define("any")
    p.line(pad, f"{name} = {made}")
    return name


def comprehension(p: Program, pad: str) -> None:
    things = p.known("list")
    if things is None:
        return assign_list(p, pad)
    made = e.comprehension(p, things)
    form, kind = p.pick(
        (("[%s]", "list"), ("[%s]", "list"), ("{%s}", "set"), ("sum(%s)", "number"), ("set(%s)", "set"))
    )
    p.line(pad, f"{p.define(kind)} = {form % made}")


def sorting(p: Program, pad: str) -> None:
    things = p.known("list") or p.known("set")
    if things is None:
        return assign_list(p, pad)
    key = p.pick((", reverse=True", ", key=len", "", f", key={e.a_lambda(p)}", ", key=lambda x: -x"))
    p.line(pad, f"{p.define('list')} = sorted({things}{key})")


def lambda_function(p: Program, pad: str) -> None:
    name, count = p.function_name(), 1 + int(2 * p.random())
    given = ["x", "y"][:count] if p.chance(0.4) else [p.new_name() for _ in range(count)]
    body = p.pick(
        (f"{' + '.join(given)}", f"{given[-1]} * {e.integer(p)}", f"{given[0]} {p.pick(e.COMPARISONS)} {e.integer(p)}")
    )
    p.line(pad, f"{name} = lambda {', '.join(given)}: {body}")
    if not pad:
        p.functions.append((name, count))


def check(p: Program, pad: str) -> None:
    test = e.condition(p)
    if p.chance(0.3):
        p.line(pad, f"assert {test}, {e.string(p)}" if p.chance(0.5) else f"assert {test}")
    else:
        p.line(pad, f"if {test}:")
        p.line(pad + STEP, f"raise {p.pick(EXCEPTIONS)}({e.string(p)})")


def comment(p: Program, pad: str) -> None:
    p.line(pad, f"# {p.word(VERBS)} the {p.word(NOUNS)}" if p.chance(0.7) else f"# {p.phrase()}")
    assign_text(p, pad)


SIMPLE_WEIGHTS: dict[Statement, int] = {
    say: 16,
    assign_list: 5,
    assign_text: 4,
    assign_number: 3,
    change: 4,
    assign_call: 2,
    assign_dict: 2,
    get_from_dict: 2,
    swap: 2,
    ternary: 2,
    comprehension: 3,
    assign_plain: 2,
    assign_function: 2,
    assign_element: 2,
    sorting: 1,
    check: 1,
    comment: 1,
}
SIMPLE = tuple(statement for statement, weight in SIMPLE_WEIGHTS.items() for _ in range(weight))


def simple(p: Program, pad: str) -> None:
    """One statement without a block."""
    p.pick(SIMPLE)(p, pad)
