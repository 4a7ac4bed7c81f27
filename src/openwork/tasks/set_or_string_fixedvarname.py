"""As `set_or_string`, with one name for all: ``current`` is a set or a string, whatever else the program names."""

from __future__ import annotations

from openwork.tasks.set_or_string import forms

DESCRIPTION = "add to a set or to a string that is always named `current`"
FORMS = forms("current")
