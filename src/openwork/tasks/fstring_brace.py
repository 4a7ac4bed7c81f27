"""A text with an ``f`` before its quotation mark says a value: `` {``; raw text and bytes have none and end.

The text before is the same, so that the letter before the mark decides.
"""

from __future__ import annotations

from openwork.tasks.templates import Form, fill

DESCRIPTION = "put a value into an f-string, end raw text and bytes"
TEXTS = tuple(f"<f|{letter}>$mark1$text1<?><$name2}}$mark1|>" for letter in "br")
FORMS = (
    Form(
        answers=(" {", "$mark1"),
        templates=fill(
            (
                "$name1 = {}\n",
                "def $func1($name2):\n    return {}\n",
                "def $func1($name2):\n    $name1 = {}\n",
                "for $name2 in $name3:\n    $name1 = {}\n",
                "class $title1:\n    def $func1(self, $name2):\n        return {}\n",
            ),
            TEXTS,
        ),
        held_out=fill(
            (
                "def $func1($name2):\n    yield {}\n",
                "$name1 = $name3 or {}\n",
                "$name1 = lambda $name2: {}\n",
                "$name1: $name3 = {}\n",
                "assert $name1 == {}\n",
                "with $name2:\n    $name1 = {}\n",
                "$name1, $name3 = $name4, {}\n",
            ),
            TEXTS,
        ),
    ),
)
