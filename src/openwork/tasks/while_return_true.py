"""After ``True``: a colon if a loop begins, the end of the line if a function returns."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "after `while True` begin a block, after `return True` end the line"
LOOP = "<while|return> True<?><\n{}    $func2()\n|>"
"""``{}`` is the indentation of the statement."""


def _at(depth: int) -> str:
    pad = "    " * depth
    return pad + LOOP.replace("{}", pad)


FORMS = (
    Form(
        answers=(":", "\n"),
        templates=(
            f"def $func1($name1):\n{_at(1)}",
            f"def $func1($name1):\n    if $name1:\n{_at(2)}    return False\n",
            f"def $func1($name1):\n    for $name2 in $name1:\n{_at(2)}    return False\n",
            f"def $func1($name1):\n    $name2 = $name1\n{_at(1)}",
            f"def $func1($name1, $name2):\n    if $name1 == $name2:\n{_at(2)}    return False\n",
            f"def $func1($name1):\n    $verb2($name1)\n{_at(1)}",
        ),
        held_out=(
            f"class $title1:\n    def $func1(self):\n        with self.$name1:\n{_at(3)}",
            f"def $func1(*$name1):\n{_at(1)}",
            f"async def $func1($name1):\n    await $name1\n{_at(1)}",
            f"def $func1($name1):\n    if $name1:\n        $verb3($name1)\n    else:\n{_at(2)}",
            f"def $func1($name1):\n    with $name1 as $name2:\n{_at(2)}",
            f"def $func1($name1):\n    global $name2\n{_at(1)}",
        ),
    ),
)
