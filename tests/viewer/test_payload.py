from __future__ import annotations

import dataclasses
import json
import math

from hypothesis import given
from hypothesis import strategies as st

from openwork.viewer.payload import Answers, to_json
from tests.viewer.payloads import quote_payload

PAYLOAD = quote_payload()


@given(st.text())
def test_any_text_returns_from_the_json_and_can_not_end_a_script(text: str) -> None:
    payload = dataclasses.replace(PAYLOAD, nodes=[], texts={"0": text})

    written = to_json(payload)

    assert json.loads(written)["texts"]["0"] == text
    assert written.isascii()
    assert not set("<>&") & set(written)


def test_markup_and_line_separators_are_escaped() -> None:
    payload = dataclasses.replace(quote_payload(), texts={"0": "</script><!--&\u2028\u2029"})

    assert '"0":"\\u003c/script\\u003e\\u003c!--\\u0026\\u2028\\u2029"' in to_json(payload)


def test_numbers_are_rounded_and_those_that_are_not_finite_become_null() -> None:
    answers = Answers(right=0.123456789, wrong=math.nan, of_two=-math.inf)
    payload = quote_payload()
    member = dataclasses.replace(payload.task.example[0], model=answers)
    task = dataclasses.replace(payload.task, example=[member, member])

    written = json.loads(to_json(dataclasses.replace(payload, task=task)))

    assert written["task"]["example"][0]["model"] == {"right": 0.12346, "wrong": None, "of_two": None}
