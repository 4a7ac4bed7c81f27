"""What a new ``if`` tests is compared: `` ==``; what stands at the start of a line of the block before is assigned.

A is one step out of a block, at an ``if`` or ``elif``; B is in the block still.
"""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "compare after `if`, assign where a line begins"
ELEMENTS = ("[$num1]", "[$name2]", "[$name2][$num1]", ".$name5")
IF, ELIF = (
    tuple(f"<{word} $name1|    $name1>{element}<?> $num2<:\n    $func2($name1)|>\n" for element in ELEMENTS)
    for word in ("if", "elif")
)
FORMS = (
    Form(
        answers=(" ==", " ="),
        templates=(
            *fill(
                (
                    "if $name3:\n    $func1($name1)\n{}",
                    "if $name3:\n    $name4 = $name1\n{}",
                    "for $name3 in $name4:\n    $func1($name3)\n{}",
                    "for $name3 in $name4:\n    $name2 = $name3\n{}",
                    "while $name3:\n    $name4 = $name3.pop()\n{}",
                ),
                IF,
            ),
            *fill(("if $name3:\n    $func1($name1)\n{}", "if $name3:\n    $name4 = $name1\n{}"), ELIF),
        ),
        held_out=(
            *fill(
                (
                    "with $name3:\n    $func1($name1)\n{}",
                    "try:\n    $func1($name3)\nfinally:\n    $func3($name4)\n{}",
                    "if $name3:\n    del $name4\n{}",
                    "while $name3 and $name4:\n    $func1($name3)\n{}",
                    "for $name3 in $name4:\n    print($name3, $name4, sep=$name6)\n{}",
                ),
                IF,
            ),
            *fill(("if $name3:\n    $name4 = lambda: $name1\n{}", "if $name3:\n    del $name4\n{}"), ELIF),
        ),
    ),
)
