"""Test what was assigned a line above: of two variables, ``if`` goes on with the one that has just changed."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "test the variable that was assigned just before"


def _ask(depth: int, made: str = "$func2($name1)") -> str:
    pad = "    " * depth
    return f"{pad}<$arg1|$arg2> = {made}\n{pad}if<?>:\n{pad}    $func3($name1)\n"


FORMS = (
    Form(
        answers=(" $arg1", " $arg2"),
        templates=(
            f"$arg1 = $num1\n$arg2 = $num2\n{_ask(0)}",
            f"$arg1, $arg2 = $num1, $num2\n{_ask(0)}",
            f"def $func1($arg1, $arg2):\n{_ask(1)}",
            f"def $func1($arg1, $arg2):\n{_ask(1, '$num1')}",
            f"def $func1($name1, $arg1, $arg2):\n{_ask(1)}",
            f"def $func1($arg1, $arg2):\n    for $name1 in $name2:\n{_ask(2)}",
            f"class $title1:\n    def $func1(self, $arg1, $arg2):\n{_ask(2)}",
        ),
        held_out=(
            f"async def $func1($arg1, $arg2):\n{_ask(1)}",
            f"def $func1(*, $arg1, $arg2):\n{_ask(1)}",
            f"def $func1($arg1, $arg2):\n    with $name1:\n{_ask(2)}",
            f"def $func1($name1):\n    global $arg1, $arg2\n{_ask(1)}",
            f"def $func1($arg1, $arg2) -> None:\n{_ask(1)}",
            f"def $func1($arg1, $arg2):\n    def $func4($name1):\n{_ask(2)}",
        ),
    ),
)
