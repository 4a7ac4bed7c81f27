"""A name after ``lambda`` is an argument, and its value follows: ``:``; after ``not`` it is a function: ``(``."""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "after `lambda` a name is an argument, after `not` it is called"
MADE = ("<lambda|not> $name2<?>< $name2 + $num1|$name3)>",)
FORMS = (
    Form(
        answers=(":", "("),
        templates=fill(
            (
                "$name1 = {}\n",
                "def $func1($name3):\n    return {}\n",
                "def $func1($name3):\n    $name1 = {}\n",
                "$func1({})\n",
                "$func1($name3, {})\n",
                "for $name3 in $name4:\n    $name1 = {}\n",
                "class $title1:\n    def $func1(self, $name3):\n        return {}\n",
            ),
            MADE,
        ),
        held_out=(
            *fill(
                (
                    "def $func1($name3):\n    yield {}\n",
                    "$name1 = [$name4, {}]\n",
                    "$name1.$name4 = {}\n",
                    "$name1[$name4] = {}\n",
                    "$name1, $name4 = $name3, {}\n",
                    "with $name3:\n    $name1 = {}\n",
                ),
                MADE,
            ),
            "async def $func1($name3):\n    return <lambda|not> $name2<?>< $name2 + $num1|$name3)>\n",
        ),
    ),
)
