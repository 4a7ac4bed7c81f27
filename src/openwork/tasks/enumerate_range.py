"""A loop with a number and a thing goes over ``enumerate``, one with a number alone over ``range``.

So that both members have the same number of tokens, B has one more term in the value before.
"""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "go over `enumerate` with two names, over `range` with one"
INSIDE = ("$name2< for $name3, $name2| + $name3 for $name3> in<?>($name4)",)
"""The loop of a comprehension."""


def _loop(depth: int) -> str:
    pad = "    " * depth
    return (
        f"{pad}$name1 = $name5<\n{pad}for $name3, $name2| + $name2\n{pad}for $name3> in<?>($name4):\n"
        f"{pad}    $verb3($name3)\n"
    )


FORMS = (
    Form(
        answers=(" enumerate", " range"),
        templates=(
            *fill(
                (
                    "$name1 = [{}]\n",
                    "$name1 = sum({})\n",
                    "def $func1($name4, $name2):\n    return [{}]\n",
                    "def $func1($name4, $name2):\n    $name1 = [{}]\n",
                ),
                INSIDE,
            ),
            _loop(0),
            f"def $func1($name4):\n{_loop(1)}",
            f"def $func1($name4):\n    if $name4:\n{_loop(2)}",
        ),
        held_out=(
            *fill(
                (
                    "def $func1($name4, $name2):\n    yield [{}]\n",
                    "$name1.$name5 = [{}]\n",
                    "assert $name1 == [{}]\n",
                    "$name1 = lambda $name4: [{}]\n",
                    "$name1 = $name5 + [{}]\n",
                ),
                INSIDE,
            ),
            f"async def $func1($name4):\n{_loop(1)}",
            f"with $name4:\n{_loop(1)}",
        ),
    ),
)
