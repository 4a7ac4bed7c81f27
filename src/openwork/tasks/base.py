"""A task poses pairs of prompts; the answer to each is one of two tokens, and only what decides differs within a pair.

Member A's right answer is the token that is wrong for member B, and the other way round, so that no habit of the model
that ignores what decides can do better than a coin: a loss of ln 2 = 0.69 nats.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from openwork.corpus import Tokenizer
from openwork.errors import UserError
from openwork.files import sha256_of
from openwork.tasks.lint import Encoded, Linter
from openwork.tasks.sources import Source
from openwork.tasks.templates import SPLITS, Split

PAIRS_VERSION = 1
"""Raised when the same seed draws other pairs than before; part of a task's hash."""
ROUNDS = 50
"""Attempts to fill a batch with pairs that are all different, before some are repeated."""
SIGNS = (-1.0, 1.0)
"""A prompt's loss is softplus(-d) where A is right, softplus(d) where B is, d being the logit of A minus that of B."""

NONSENSE = "~nonsense"
"""Ends the name of a nonsense twin."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of prompts as tensors; ``n`` pairs, ``T`` tokens."""

    tokens: Tensor
    """(n, 2, T) int64: end-of-text, the prompt, end-of-text up to the longest."""
    last: Tensor
    """(n,) int64: position whose next token is the answer, the same in both members."""
    right: Tensor
    """(n, 2) int64: the right answer of each member."""
    wrong: Tensor
    """(n, 2) int64: the other member's."""
    prompts: tuple[tuple[str, str], ...]
    templates: tuple[str, ...] = ()
    """What each was drawn from; empty where they were written down."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def flat(self) -> Tensor:
        """(2n, T): the prompts as one batch for the model, the members of a pair next to each other."""
        return self.tokens.flatten(0, 1)

    @property
    def due(self) -> Tensor:
        """(2n,) int64: for each of ``flat`` the position whose next token is the answer."""
        return self.last.repeat_interleave(2)

    def rows(self, rows: Iterable[int]) -> Pairs:
        """The pairs at `rows` alone."""
        rows = list(rows)
        return Pairs(
            *(tensor[rows] for tensor in (self.tokens, self.last, self.right, self.wrong)),
            prompts=tuple(self.prompts[i] for i in rows),
            templates=tuple(self.templates[i] for i in rows) if self.templates else (),
        )

    def split(self, n: int) -> list[Pairs]:
        """The same pairs in parts of `n`, the last one of what is left."""
        return [self.rows(range(i, min(i + n, len(self)))) for i in range(0, len(self), n)]

    def distinct(self, but: Pairs | None = None) -> Pairs:
        """Each of the pairs once, without those that are in `but`; where that leaves none, those as well."""
        once = {prompts: i for i, prompts in reversed(list(enumerate(self.prompts)))}
        others = [i for prompts, i in once.items() if but is None or prompts not in but.prompts]
        return self.rows(sorted(others or once.values()))

    def at_answer(self, logits: Tensor) -> Tensor:
        """(2n, d_vocab): of `logits` (2n, T, d_vocab) those where the answer is due."""
        due = self.due.to(logits.device)
        return logits[torch.arange(len(due), device=logits.device), due]

    def differences(self, logits: Tensor) -> Tensor:
        """(n, 2): logit of answer A minus logit of answer B for both members, A being right for member A (index 0).

        So a good model is above zero in column 0 and below in column 1. `logits` are (2n, T, d_vocab) of ``flat``, or
        (2n, d_vocab) where the answer is due.
        """
        due = (logits if logits.dim() == 2 else self.at_answer(logits)).unflatten(0, (-1, 2))
        a, b = (answer.to(logits.device).unsqueeze(1).expand(-1, 2).unsqueeze(2) for answer in self.right.unbind(1))
        return (due.gather(2, a) - due.gather(2, b)).squeeze(2)

    @staticmethod
    def losses(differences: Tensor) -> Tensor:
        """Mean -log p(right | right or wrong) over all prompts (...), in nats, from `differences` A - B (..., n, 2)."""
        return F.softplus(differences * differences.new_tensor(SIGNS)).mean((-1, -2))

    def loss(self, logits: Tensor, scale: float | Tensor = 1.0, shift: float | Tensor = 0.0) -> Tensor:
        """The loss in nats of `logits`, the `differences` A - B calibrated to ``scale * d + shift``."""
        return self.losses(scale * self.differences(logits) + shift)

    def accuracy(self, differences: Tensor) -> float:
        """Part of the prompts (not pairs) that `differences` A - B (n, 2) answer right; a tie is wrong."""
        return torch.stack([differences[:, 0] > 0, differences[:, 1] < 0]).double().mean().item()


@dataclass(frozen=True, eq=False)
class Task:
    """A binary choice of the next token, posed in pairs, for one tokenizer; made by `openwork.tasks.get`."""

    name: str
    description: str
    source: Source
    """Of the pairs; only what suits the tokenizer."""
    tokenizer: Tokenizer = field(repr=False)
    left_out: tuple[str, ...] = ()
    """Templates that do not suit the tokenizer, each with the reason."""
    instead: tuple[int, int] | None = None
    """Two tokens that stand for the right answers of A and B in all pairs: the task is nonsense then (see `twin`)."""

    @property
    def hash(self) -> str:
        """SHA-256 over all that decides the pairs: name, source, tokenizer, and the answers of a nonsense twin."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        content = [PAIRS_VERSION, self.name, *self.source.content, self.tokenizer.hash]
        if self.instead:
            content.append(self.instead)
        return sha256_of(json.dumps(content, sort_keys=True).encode())

    @cached_property
    def _linter(self) -> Linter:
        return Linter(self.tokenizer)

    def pairs(self, split: Split, n: int, seed: int = 0) -> Pairs:
        """`n` pairs of `split`, the same ones for the same `seed`; all different if there are that many.

        Of templates, train and validation share the shapes and no word; held-out has other shapes, and the words of
        validation.

        Raises:
            UserError: there is no such split, or `n` is below 1.
        """
        if split not in SPLITS:
            raise UserError(f"task {self.name} has no split {split!r}; choose one of {', '.join(SPLITS)}")
        if n < 1:
            raise UserError(f"{n} pairs of task {self.name} were asked for; ask for at least 1")
        random = Random(f"{self.name.removesuffix(NONSENSE)} {split} {seed}")
        found: dict[tuple[str, str], Encoded] = {}
        for _ in range(ROUNDS):
            for pair in self._draw(split, n - len(found), random):
                found[pair.candidate.prompts] = pair
            if len(found) >= n:
                break
        chosen = list(found.values())
        return self._tensors([chosen[i % len(chosen)] for i in range(n)])

    def _draw(self, split: Split, n: int, random: Random) -> list[Encoded]:
        """At most `n` pairs without fault, out of somewhat more that are drawn."""
        drawn = self.source.draw(split, n + n // 8, random)
        return [pair for pair in self._linter(drawn) if isinstance(pair, Encoded)][:n]

    def _tensors(self, pairs: list[Encoded]) -> Pairs:
        end = self.tokenizer.end_of_text
        longest = max(len(pair.ids[0]) for pair in pairs)
        rows = [[end, *ids, *[end] * (longest - len(ids))] for pair in pairs for ids in pair.ids]
        right = torch.tensor([self.instead or pair.answers for pair in pairs])
        return Pairs(
            tokens=torch.tensor(rows).unflatten(0, (-1, 2)),
            last=torch.tensor([len(pair.ids[0]) for pair in pairs]),
            right=right,
            wrong=right.flip(1),
            prompts=tuple(pair.candidate.prompts for pair in pairs),
            templates=tuple(pair.candidate.template for pair in pairs if pair.candidate.template),
        )
