"""A call after ``with`` is given a name: `` as``; after ``return`` or ``yield`` the line ends."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "name what `with` enters, but end the line after `return`"
FORMS_OF_CALL = ("$func2($name1)", "$name1.$verb2()", "$func2($name3, $name1)")


def _ask(call: str, depth: int, other: str = "return") -> str:
    pad = "    " * depth
    return f"{pad}<with|{other}> {call}<?>< $name2:\n{pad}    $func3($name2)\n|>"


FORMS = (
    Form(
        answers=(" as", "\n"),
        templates=(
            *(f"def $func1($name1):\n{_ask(call, 1)}" for call in FORMS_OF_CALL),
            *(f"def $func1($name1):\n    if $name1:\n{_ask(call, 2)}" for call in FORMS_OF_CALL),
            f"def $func1($name1):\n    $name4 = $num1\n{_ask('open($name1)', 1)}",
            f"def $func1($name3):\n    for $name1 in $name3:\n{_ask('$func2($name1)', 2, 'yield')}",
            f"class $title1:\n    def $func1(self, $name1):\n{_ask('self.$verb2($name1)', 2)}",
        ),
        held_out=(
            f"async def $func1($name1):\n{_ask('$func2($name1)', 1)}",
            f"def $func1($name1):\n    global $name4\n{_ask('$func2($name1)', 1)}",
            f"def $func1($name1):\n    with $name1:\n{_ask('$func2()', 2)}",
            f"def $func1($name1):\n    while $name1 and $name3:\n{_ask('$func2($name1)', 2)}",
            f"def $func1($name1):\n    def $func4():\n{_ask('$func2($name1)', 2)}",
            f"def $func1($name1, *$name3):\n{_ask('$func2(*$name3)', 1)}",
            f"async def $func1($name1):\n    if $name1:\n{_ask('$name1.$verb2()', 2)}",
        ),
    ),
)
