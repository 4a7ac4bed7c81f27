"""What may be wrong with a pair of prompts for a tokenizer: with such a fault a task would measure something else."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from openwork.corpus import Tokenizer
from openwork.tasks.templates import Candidate


@dataclass(frozen=True)
class Encoded:
    """A pair of prompts as token ids, with its answers; without end-of-text."""

    candidate: Candidate
    ids: tuple[list[int], list[int]]
    answers: tuple[int, int]


class Linter:
    """Encodes pairs and finds their faults."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._answers: dict[str, list[int]] = {}

    def __call__(self, candidates: list[Candidate]) -> list[Encoded | str]:
        """Each pair encoded, or its faults in words.

        The prompts are cut out of the whole code's tokens, as a model meets them in its corpus; `unstable` tells
        whether they are the same when encoded alone.
        """
        ids = self.tokenizer.encode_many([pair.code(member) for pair in candidates for member in (0, 1)])
        return [self._judge(pair, ids[2 * i], ids[2 * i + 1]) for i, pair in enumerate(candidates)]

    def unstable(self, encoded: Encoded) -> str:
        """The fault that the prompt's tokens change with what follows; empty if they don't."""
        pair = encoded.candidate
        for prompt, answer, ids, answer_id in zip(
            pair.prompts, pair.answers, encoded.ids, encoded.answers, strict=True
        ):
            for text, wanted in ((prompt, ids), (prompt + answer, [*ids, answer_id])):
                found = self.tokenizer.encode(text)
                if found != wanted:
                    alone, within = self._show(found[-3:]), self._show(wanted[-3:])
                    return f"{text[-20:]!r} ends in {alone} alone and in {within} in the whole code; it must not change"
        return ""

    def _judge(self, pair: Candidate, code_a: list[int], code_b: list[int]) -> Encoded | str:
        """`code_a` and `code_b`: ids of the members' whole code."""
        answers = self._answer(pair.answers[0]), self._answer(pair.answers[1])
        faults = [f"both answers are {pair.answers[0]!r}; they must differ"] if answers[0] == answers[1] else []
        prompts = []
        for text, answer, prompt, code in zip(pair.answers, answers, pair.prompts, (code_a, code_b), strict=True):
            end, due = self._end(code, len(prompt.encode()))
            if len(answer) != 1:
                faults.append(f"the answer {text!r} is {len(answer)} tokens, {self._show(answer)}; it must be one")
            elif due != len(prompt.encode()):
                flowed = self._show(code[end - 1 : end])
                faults.append(f"prompt and answer {text!r} flow together into {flowed}; they may not")
            elif code[end : end + 1] != answer:
                found = self._show(code[end : end + 1])
                faults.append(f"in the whole code {found} follows the prompt; it must be the answer {text!r}")
            prompts.append(code[:end])
        faults += self._prompt_faults(pair, prompts[0], prompts[1])
        if faults:
            return "; ".join(dict.fromkeys(faults))
        return Encoded(pair, (prompts[0], prompts[1]), (answers[0][0], answers[1][0]))

    def _end(self, ids: list[int], length: int) -> tuple[int, int]:
        """How many of `ids` it takes for at least `length` bytes, and how many bytes these are."""
        end = at = 0
        while at < length and end < len(ids):
            at += self._lengths[ids[end]]
            end += 1
        return end, at

    def _prompt_faults(self, pair: Candidate, a: list[int], b: list[int]) -> list[str]:
        if a == b:
            return ["both prompts are the same; they must differ in what decides"]
        faults = []
        if a[-1:] != b[-1:]:
            last = self._show([*a[-1:], *b[-1:]])
            faults.append(f"the last tokens {last} differ and give the answer away; they must be the same")
        if len(a) != len(b):
            return [*faults, f"the prompts have {len(a)} and {len(b)} tokens; they must be as long"]
        return faults + (self._outside(pair, a, b) if pair.deciding else self._places(a, b))

    def _outside(self, pair: Candidate, a: list[int], b: list[int]) -> list[str]:
        """The fault that the prompts differ where the pair does not say that it decides."""
        assert pair.deciding is not None
        spans = [_in_bytes(text, spans) for text, spans in zip(pair.prompts, pair.deciding, strict=True)]
        at_a = at_b = 0
        for one, two in zip(a, b, strict=True):
            end_a, end_b = at_a + self._lengths[one], at_b + self._lengths[two]
            if one != two and not (_touches(spans[0], at_a, end_a) and _touches(spans[1], at_b, end_b)):
                return [f"the prompts differ outside the deciding place, in {self._show([one, two])}; they may not"]
            at_a, at_b = end_a, end_b
        return []

    def _places(self, a: list[int], b: list[int]) -> list[str]:
        """The fault that the prompts differ in several places that do not touch."""
        differ = [one != two for one, two in zip(a, b, strict=True)]
        begins = [i for i, here in enumerate(differ) if here and not (i and differ[i - 1])]
        if len(begins) == 1:
            return []
        shown = ", ".join(self._show([a[i], b[i]]) for i in begins)
        return [f"the prompts differ in {len(begins)} places, {shown}; one must decide"]

    @cached_property
    def _lengths(self) -> list[int]:
        """Bytes of each token: a byte-level vocabulary writes each as one character."""
        return [len(self.tokenizer.backend.id_to_token(i) or "") for i in range(self.tokenizer.d_vocab)]

    def _answer(self, answer: str) -> list[int]:
        if answer not in self._answers:
            self._answers[answer] = self.tokenizer.encode(answer)
        return self._answers[answer]

    def _show(self, ids: list[int]) -> str:
        return " ".join(repr(token) for token in self.tokenizer.tokens(ids))


Spans = tuple[tuple[int, int], ...]


def _in_bytes(text: str, spans: Spans) -> Spans:
    """Spans of characters of `text` as spans of its bytes."""
    return tuple((len(text[:start].encode()), len(text[:end].encode())) for start, end in spans)


def _touches(spans: Spans, start: int, end: int) -> bool:
    return any(start < span_end and span_start < end for span_start, span_end in spans)
