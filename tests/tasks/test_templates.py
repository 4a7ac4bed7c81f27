from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwork.tasks.templates import BEFORE, draw, words_of

WORDS = words_of("train")


def test_choices_and_spans() -> None:
    pair = draw("a<1|22>b<c|>d<?>e<f|gg>\n", ("x", "y"), WORDS, Random(0), before=("",))
    assert pair.prompts == ("a1bcd", "a22bd")
    assert pair.suffixes == ("ef\n", "egg\n")
    assert pair.answers == ("x", "y")
    assert pair.deciding == (((1, 2), (3, 4)), ((1, 3), (4, 4)))
    assert pair.code(1) == "a22bdyegg\n"


@given(st.integers(0, 10_000))
def test_a_slot_keeps_its_word_and_slots_differ(seed: int) -> None:
    pair = draw("$arg1 $arg2 $name1 <$arg1|$arg2><?>$name1", (" $arg1", " $arg2"), WORDS, Random(seed), before=("",))
    one, two, name, asked = pair.prompts[0].split()
    assert len({one, two, name}) == 3
    assert asked == one
    assert pair.prompts[1].split()[3] == two
    assert pair.answers == (f" {one}", f" {two}")
    assert pair.suffixes == (name, name)
    assert {one, two} <= set(WORDS.arg)
    assert name in WORDS.name


@pytest.mark.parametrize("before", BEFORE)
def test_what_stands_before_is_the_same_for_both_members(before: str) -> None:
    pair = draw("def $func1():\n    return <1|2><?>\n", ("", ""), WORDS, Random(1), before=(before,))
    start = pair.prompts[0].removesuffix("1")
    assert pair.prompts[1] == start + "2"
    assert start.startswith("def ") or "\n\n\ndef " in start
