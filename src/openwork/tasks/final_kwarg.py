"""After an argument with a default every later one has a default: ``=``; otherwise the arguments may end: ``):``."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "give the last argument a default if the one before has one"
END = ", $name3<?><None):|>\n{}    return $name3\n"
"""``{}`` is the indentation of the definition."""
TOP, INSIDE = END.format(""), END.format("    ")
FORMS = (
    Form(
        answers=("=", "):"),
        templates=(
            f"def $func1($name1<=None|, $name2>{TOP}",
            f"def $func1($name4, $name1<=None|, $name2>{TOP}",
            f"def $func1($name1<=True|, $name2>{TOP}",
            f"def $func1($name1<=$num1|, $name2>{TOP}",
            f"class $title1:\n    def $func1(self, $name1<=None|, $name2>{INSIDE}",
            f"class $title1:\n    def __init__(self, $name4, $name1<=None|, $name2>{INSIDE}",
        ),
        held_out=(
            f"async def $func1($name1<=None|, $name2>{TOP}",
            f"@$name4.$verb1\ndef $func1($name1<=None|, $name2>{TOP}",
            f"def $func1($name4, /, $name1<=None|, $name2>{TOP}",
            f"def $func1($name4):\n    def $func2($name1<=None|, $name2>{INSIDE}",
            f"if $name4:\n    def $func1($name1<=False|, $name2>{INSIDE}",
            f"class $title1:\n    @staticmethod\n    def $func1($name1<=None|, $name2>{INSIDE}",
            f"class $title1:\n    @classmethod\n    def $func1(cls, $name1<=None|, $name2>{INSIDE}",
        ),
    ),
)
