"""Indent the block of a loop by one step more than the loop, which stands in a function or in a block of it."""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "indent the block of `for` by one step more than `for`"
LOOP = ("<    |        >for $name2 in $name1:\n<?>$func4($name2)\n",)
FORMS = (
    Form(
        answers=(" " * 8, " " * 12),
        templates=fill(
            (
                "def $func1($name1):\n    if $name1:\n        $func2($name1)\n{}",
                "def $func1($name1):\n    if $name1:\n        $name3 = $name1\n{}",
                "def $func1($name1):\n    for $name3 in $name1:\n        $func2($name3)\n{}",
                "for $name3 in $name1:\n    if $name3:\n        $name4 = $num1\n{}",
                "while True:\n    if $name3:\n        $name4 = $num1\n{}",
                "if $name1:\n    for $name3 in range($num1):\n        $name4 = $num2\n{}",
                "if $name1:\n    while $name1:\n        $name3 = $name1.pop()\n{}",
                "def $func1($name1):\n    $name3 = $num1\n    if $name1:\n        $func2($name3)\n{}",
                "def $func1($name1):\n    with $func2($name1) as $name3:\n        $func3($name3)\n{}",
            ),
            LOOP,
        ),
        held_out=fill(
            (
                "async def $func1($name1):\n    if $name1:\n        $func2($name1)\n{}",
                "def $func1($name1):\n    def $func2($name3):\n        $func3($name3)\n{}",
                "def $func1($name1):\n    with $name1:\n        $func2($name1)\n{}",
                "def $func1($name1):\n    global $name3\n    if $name1:\n        $name3 = $name1\n{}",
                "def $func1($name1):\n    if $name1:\n        del $name1\n{}",
                "def $func1($name1):\n    try:\n        $func2($name1)\n    finally:\n        $func3($name1)\n{}",
            ),
            LOOP,
        ),
    ),
)
