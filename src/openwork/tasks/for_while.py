"""After the name that a loop begins with: `` in`` if it goes over things, ``:`` if it lasts as long as the name."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "say what `for` goes over; begin the block of `while` at once"


def _loop(depth: int) -> str:
    pad = "    " * depth
    return f"{pad}<for|while> $name1<?>< $name2:|>\n{pad}    $verb1($name1)\n"


FORMS = (
    Form(
        answers=(" in", ":"),
        templates=(
            f"$name2 = [$items1]\n{_loop(0)}",
            f"$verb2($name2)\n{_loop(0)}",
            f"def $func1($name2):\n{_loop(1)}",
            f"def $func1($name2):\n    $name3 = $name2\n{_loop(1)}",
            f"def $func1($name2):\n    if $name2:\n{_loop(2)}",
            f"for $name3 in $name2:\n{_loop(1)}",
            f"class $title1:\n    def $func1(self, $name2):\n{_loop(2)}",
        ),
        held_out=(
            f"async def $func1($name2):\n{_loop(1)}",
            f"def $func1($name2):\n    while $name2 and $name3:\n{_loop(2)}",
            f"def $func1($name2):\n    with $name2:\n{_loop(2)}",
            f"def $func1($name2):\n    global $name3\n{_loop(1)}",
            f"def $func1($name2):\n    def $func2():\n{_loop(2)}",
            f"del $name2[$num1]\n{_loop(0)}",
        ),
    ),
)
