"""A brace begins a dict, whose key is followed by ``:``; a bracket begins a list, whose item is followed by ``,``."""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "go on with `:` in a dict and with `,` in a list"
INSIDE = (
    "<{|[>$name2<?> $name3<}|]>",
    "<{|[>$num1<?> $name3<}|]>",
    "<{|[>$name2<:|,> $num1, $name3<?> $num2<}|]>",
    "<{|[>$num1<:|,> $name2, $num2<?> $name3<}|]>",
)
FORMS = (
    Form(
        answers=(":", ","),
        templates=fill(
            (
                "$name1 = {}\n",
                "$func1($name4, {})\n",
                "$name1 = $func1($name4, {})\n",
                "def $func1($name2):\n    return {}\n",
                "for $name1 in $name2:\n    $name4 = {}\n",
                "def $func1($name2):\n    $name1 = {}\n",
            ),
            INSIDE,
        ),
        held_out=fill(
            (
                "def $func1($name2):\n    yield {}\n",
                "$name1 = $name4 or {}\n",
                "$name1.$name4 = {}\n",
                "$name1[$name4] = {}\n",
                "$name1 = lambda: {}\n",
                "assert $name1 == {}\n",
                "$name1, $name4 = $name5, {}\n",
                "with $name1:\n    $name4 = {}\n",
            ),
            INSIDE,
        ),
    ),
)
