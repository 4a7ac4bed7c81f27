"""After the condition of a statement ``if`` a block begins: ``:``; in ``a if b`` the other value follows: `` else``."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "begin a block after an `if` of its own, else give the other value"
SIDES = (" + 1", " - 1", " * 2")
"""Ends of a value, so that both members have the same number of tokens."""


def _ask(depth: int, side: str, target: str = "$name1") -> str:
    pad = "    " * depth
    return f"{pad}{target} = $name2<\n{pad}if|{side} if> $name3<?><\n{pad}    $func3($name2)\n| $name4\n>"


FORMS = (
    Form(
        answers=(":", " else"),
        templates=(
            _ask(0, "()"),
            f"$name3 = $num1\n{_ask(0, '()')}",
            *(f"def $func1($name2, $name3):\n{_ask(1, side)}" for side in SIDES),
            *(f"for $name2 in $name3:\n{_ask(1, side)}" for side in SIDES),
            *(f"def $func1($name3):\n    for $name2 in $name3:\n{_ask(2, side)}" for side in SIDES),
            *(f"class $title1:\n    def $func1(self, $name2):\n{_ask(2, side, 'self.$name1')}" for side in SIDES),
        ),
        held_out=(
            *(f"async def $func1($name2, $name3):\n{_ask(1, side)}" for side in SIDES),
            *(f"with $name2:\n{_ask(1, side)}" for side in SIDES),
            *(f"def $func1($name3):\n    global $name1\n{_ask(1, side)}" for side in SIDES),
            f"while $name2:\n{_ask(1, SIDES[0], '$name1[$name5]')}",
            f"def $func1($name3):\n    def $func2($name2):\n{_ask(2, SIDES[2])}",
        ),
    ),
)
