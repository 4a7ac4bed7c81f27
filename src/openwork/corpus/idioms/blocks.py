"""Statements with blocks: each function adds the lines of one, indented by `pad`, at most `depth` more inside it."""

from __future__ import annotations

from collections.abc import Callable
from keyword import iskeyword

from openwork.corpus.idioms import expressions as e
from openwork.corpus.idioms.program import Program
from openwork.corpus.idioms.statements import STEP, assign_list, assign_number, reassign, say, simple
from openwork.corpus.idioms.words import EXCEPTIONS, NOUNS, READ_FROM, VERBS, WRITE_TO

Block = Callable[[Program, str, int], None]


def accumulate(p: Program, pad: str, depth: int) -> None:
    """A set, string, list, number or dict that a loop fills; the way it began decides how it grows."""
    things = p.known("list") or p.known("any")
    if things is None:
        assign_list(p, pad)
        things = p.names["list"][-1]
    kind, start = p.pick(STARTS)
    name = p.define_as("current", kind) if p.chance(0.25) else p.define(kind)
    if kind in ("set", "text") and p.chance(0.3):
        start = _filled(p, kind)
    p.line(pad, f"{name} = {start}")
    if p.chance(0.3):
        simple(p, pad)
    with p.block():
        item = p.new_name()
        p.line(pad, f"for {item} in {things}:")
        p.names["any"].append(item)
        inside = pad + STEP
        if p.chance(0.3):
            p.line(inside, f"if {e.condition(p)}:")
            inside += STEP
        elif p.chance(0.2):
            simple(p, inside)
        p.line(inside, grow(p, kind, name, item))


def _filled(p: Program, kind: str) -> str:
    """A set or a text that holds something from the start."""
    if p.chance(0.5):
        word = p.quoted(p.word(NOUNS))
        return f"{{{word}}}" if kind == "set" else word
    held = p.known("any") or p.known("list") or e.string(p)
    return f"set({held})" if kind == "set" else f"str({held})"


STARTS = (
    *(("set", "set()") for _ in range(6)),
    *(("text", start) for start in ('""', "''", "str()", "str()") for _ in range(2)),
    *(("list", "[]") for _ in range(3)),
    *(("number", "0") for _ in range(2)),
    ("dict", "{}"),
)


def grow(p: Program, kind: str, name: str, item: str) -> str:
    """One step of filling `name` with `item`."""
    if kind == "set":
        return f"{name}.add({item})" if p.chance(0.7) else f"{name}.add({e.value(p)})"
    if kind == "text":
        return f"{name} += {item}" if p.chance(0.6) else f"{name} += {e.text(p)}"
    if kind == "list":
        return f"{name}.append({item})"
    if kind == "number":
        return f"{name} += {item}" if p.chance(0.5) else f"{name} += 1"
    return f"{name}[{item}] = {e.value(p)}"


def for_loop(p: Program, pad: str, depth: int) -> None:
    with p.block():
        draw = p.random()
        things, table = p.known("list"), p.known("dict")
        if table and draw < 0.2:
            key, value = p.new_name(), p.new_name()
            p.line(pad, f"for {key}, {value} in {table}.items():")
            p.names["text"].append(key)
            p.names["any"].append(value)
        elif things and draw < 0.45:
            count, item = p.define("number"), p.new_name()
            p.line(pad, f"for {count}, {item} in enumerate({things}):")
            p.names["any"].append(item)
        elif things and draw < 0.7:
            p.line(pad, f"for {p.define('any')} in {things}:")
        else:
            end = f"len({things})" if things and draw < 0.8 else e.number(p)
            p.line(pad, f"for {p.define('number')} in range({end}):")
        body(p, pad + STEP, depth - 1)


def while_loop(p: Program, pad: str, depth: int) -> None:
    """A loop that counts, or that takes things until there are none."""
    things = p.known("list") or p.known("any")
    if things and p.chance(0.5):
        with p.block():
            p.line(pad, f"while {things}:")
            p.line(pad + STEP, f"{p.define('any')} = {things}.pop({p.pick(('', '', '0'))})")
            body(p, pad + STEP, depth - 1)
        return
    count = p.known("number")
    if count is None:
        assign_number(p, pad)
        count = p.names["number"][-1]
    with p.block():
        p.line(pad, f"while {count}:" if p.chance(0.4) else f"while {count} {p.pick('<>')} {e.integer(p)}:")
        body(p, pad + STEP, depth - 1)
        p.line(pad + STEP, f"{count} {p.pick(('+=', '-='))} {int(1 + 3 * p.random())}")


def block_and_loop(p: Program, pad: str, depth: int) -> None:
    """A short block, then a loop in it or after it: its indentation alone tells."""
    things = p.known("list") or p.known("any")
    if things is None:
        return for_loop(p, pad, depth)
    with p.block():
        head = p.pick(("if {}:", "if {}:", "for {new} in {}:", "while {}:"))
        p.line(pad, head.format(p.anything(), new=p.define("any") if "new" in head else ""))
        inside = pad + STEP
        if head.startswith("while"):
            p.line(inside, f"{p.define('any')} = {things}.pop()")
        else:
            p.pick((reassign, say, simple))(p, inside)
        inside = p.pick((pad, inside))
        p.line(inside, f"for {p.define('any')} in {things}:")
        body(p, inside + STEP, depth - 2)


def while_true(p: Program, pad: str, depth: int) -> None:
    """A loop that ends by a break."""
    p.line(pad, "while True:")
    with p.block():
        body(p, pad + STEP, depth - 1)
        p.line(pad + STEP, f"if {e.condition(p)}:")
        if p.chance(0.3):
            simple(p, pad + 2 * STEP)
        p.line(pad + 2 * STEP, "break")


def branches(p: Program, pad: str, depth: int) -> None:
    """A row of branches; what the first one tests has often just been assigned."""
    if p.chance(0.4):
        name = reassign(p, pad)
        asked = p.pick(("{}", "{}", "not {}", "{} is None", "{} == {number}", "{} > {number}"))
        p.line(pad, f"if {asked.format(name, number=e.integer(p))}:")
    else:
        p.line(pad, f"if {e.test(p)}:")
    heads = p.pick((("elif", "else"), ("elif",), ("elif", "elif", "else"), ("else",), ("else",), (), ()))
    for head in (*heads, ""):
        with p.block():
            body(p, pad + STEP, depth - 1)
        if head:
            p.line(pad, f"elif {e.test(p)}:" if head == "elif" else "else:")


def with_call(p: Program, pad: str, depth: int) -> None:
    """What a call gives, or an object has, is entered and named."""
    thing = p.known("any") or p.known("text")
    if p.functions and p.chance(0.6):
        name, count = p.pick(p.functions)
        made = f"{name}({e.arguments(p, count)})"
    elif thing and p.chance(0.6):
        verb = p.word(VERBS)
        made = f"{thing}.{verb}{'_' * iskeyword(verb)}({p.anything() if p.chance(0.4) else ''})"
    else:
        made = f"open({thing or p.quoted(p.file_name())})"
    with p.block():
        p.line(pad, f"with {made} as {p.define('any')}:")
        body(p, pad + STEP, depth - 1)


def with_file(p: Program, pad: str, depth: int) -> None:
    """A file that is read or written; most names tell which."""
    writes = p.chance(0.5)
    name = p.file_to(WRITE_TO, READ_FROM) if writes else p.file_to(READ_FROM, WRITE_TO)
    mode = p.quoted("w" if writes else "r")
    with p.block():
        handle = p.pick(("f", "file", "f", "handle"))
        p.line(pad, f"with open({p.quoted(name)}{f', {mode}' if writes or p.chance(0.8) else ''}) as {handle}:")
        if writes:
            p.line(pad + STEP, f"{handle}.write({e.text(p)})")
        elif p.chance(0.5):
            p.line(pad + STEP, f"{p.define('text')} = {handle}.read()")
        else:
            p.line(pad + STEP, f"for {p.define('text')} in {handle}:")
            body(p, pad + 2 * STEP, 0)


def try_except(p: Program, pad: str, depth: int) -> None:
    p.line(pad, "try:")
    with p.block():
        body(p, pad + STEP, depth - 1)
    p.line(pad, f"except {p.pick(EXCEPTIONS)}{' as error' if p.chance(0.3) else ''}:")
    p.line(pad + STEP, "pass") if p.chance(0.2) else say(p, pad + STEP)


BLOCK_WEIGHTS: dict[Block, int] = {
    accumulate: 7,
    for_loop: 5,
    block_and_loop: 3,
    branches: 5,
    while_loop: 3,
    while_true: 3,
    with_call: 3,
    with_file: 4,
    try_except: 1,
}
BLOCKS = tuple(block for block, weight in BLOCK_WEIGHTS.items() for _ in range(weight))


def body(p: Program, pad: str, depth: int) -> None:
    """One statement to three; a block at times where `depth` allows."""
    for _ in range(1 + int(2.2 * p.random())):
        if depth > 0 and p.chance(0.4):
            p.pick(BLOCKS)(p, pad, depth)
        else:
            simple(p, pad)
