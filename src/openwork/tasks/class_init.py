"""Give an attribute the argument of the same name: ``self.x =`` asks for ``x``, whatever other arguments there are."""

from __future__ import annotations

from openwork.tasks.templates import Form

DESCRIPTION = "give an attribute the argument of its name"
CLASS = "class $title1:\n"
ASKED = "        self.<$arg1|$arg2> =<?>\n"
FORMS = (
    Form(
        answers=(" $arg1", " $arg2"),
        templates=(
            f"{CLASS}    def __init__(self, $arg1, $arg2):\n{ASKED}",
            f"{CLASS}    def __init__(self, $arg1, $arg2, $arg3):\n{ASKED}",
            f"{CLASS}    def __init__(self, $arg3, $arg1, $arg2):\n        self.$arg3 = $arg3\n{ASKED}",
            f"{CLASS}    def __init__(self, $arg3, $arg4, $arg1, $arg2):\n"
            f"        self.$arg3 = $arg3\n        self.$arg4 = $arg4\n{ASKED}",
        ),
        held_out=(
            f"{CLASS}    $name1 = $num1\n\n    def __init__(self, $arg1, $arg2):\n{ASKED}",
            f"{CLASS}    def __init__(self, *, $arg1, $arg2):\n{ASKED}",
            f"{CLASS}    def __init__(self, $arg1, $arg2) -> None:\n{ASKED}",
            f"{CLASS}    def __init__(self, $arg1, $arg2):\n        $func1()\n{ASKED}",
            f"{CLASS}    def $func1(self, $arg1, $arg2):\n{ASKED}",
            f"{CLASS}    def __init__(self, $arg1, $arg2, **$name1):\n        super().__init__(**$name1)\n{ASKED}",
        ),
    ),
)
