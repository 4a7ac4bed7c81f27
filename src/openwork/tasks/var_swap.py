"""Swap two variables: after ``a, b = b,`` comes ``a``, the one that stands first on the left."""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "complete the swap of two variables"
SWAP = ("<$arg1, $arg2 = $arg2|$arg2, $arg1 = $arg1>,<?>\n",)
FORMS = (
    Form(
        answers=(" $arg1", " $arg2"),
        templates=fill(
            (
                "$arg1, $arg2 = $num1, $num2\n{}",
                "$arg1 = $num1\n$arg2 = $num2\n{}",
                "if $arg1 > $arg2:\n    {}",
                "def $func1($arg1, $arg2):\n    {}",
                "def $func1($arg1, $arg2):\n    if $arg1 < $arg2:\n        {}",
                "for $arg1 in $name1:\n    {}",
            ),
            SWAP,
        ),
        held_out=(
            *fill(
                (
                    "async def $func1($arg1, $arg2):\n    {}",
                    "with $name1:\n    {}",
                    "def $func1():\n    global $arg1, $arg2\n    {}",
                    "while $arg1 and $arg2:\n    {}",
                    "$arg1 = $arg2 = $name1\n{}",
                ),
                SWAP,
            ),
            "$verb1($arg1, $arg2)\n[<$arg1, $arg2] = [$arg2|$arg2, $arg1] = [$arg1>,<?>]\n",
            "$verb1($arg1, $arg2)\n(<$arg1, $arg2) = ($arg2|$arg2, $arg1) = ($arg1>,<?>)\n",
        ),
    ),
)
