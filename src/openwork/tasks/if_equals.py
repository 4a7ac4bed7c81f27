"""What ``if`` tests is compared: `` ==``; an element or attribute at the start of a line is assigned: `` =``."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "compare after `if`, assign where a line begins"
ELEMENTS = ("[$num1]", "[$name2]", "[$name2][$num1]")


def _ask(depth: int, element: str, before: str = "<if |$name3.>") -> str:
    pad = "    " * depth
    return f"{pad}{before}$name1{element}<?> $num2<:\n{pad}    $func2($name1)|>\n"


FORMS = (
    Form(
        answers=(" ==", " ="),
        templates=(
            *(f"$func1($name1)\n{_ask(0, element)}" for element in ELEMENTS),
            *(f"def $func1($name1):\n{_ask(1, element)}" for element in ELEMENTS),
            *(f"for $name2 in $name1:\n{_ask(1, element)}" for element in ELEMENTS),
            *(f"def $func1($name1):\n    for $name2 in $name1:\n{_ask(2, element)}" for element in ELEMENTS),
            *(
                f"class $title1:\n    def $func1(self, $name2):\n{_ask(2, element, '<if |self.>')}"
                for element in ELEMENTS
            ),
        ),
        held_out=(
            *(f"async def $func1($name1):\n{_ask(1, element)}" for element in ELEMENTS),
            *(f"with $name2:\n{_ask(1, element)}" for element in ELEMENTS),
            *(f"def $func1($name1):\n    global $name2\n{_ask(1, element)}" for element in ELEMENTS),
            f"def $func1($name1):\n{_ask(1, '[-$num1]')}",
            f"def $func1($name1):\n{_ask(1, '[$name2, $num1]')}",
            f"def $func1($name1):\n{_ask(1, '[$name2 + $num1]')}",
        ),
    ),
)
