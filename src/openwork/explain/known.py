"""What the tokens of a task alone decide of a circuit's residual stream.

Without positions, a channel to which no varying node has written is a function of the token: its embedding and
constants. So all that RMSNorm and AbsTopK ask of such channels is known for each token beforehand: the sum of their
squares, and the magnitudes with which the others compete for a place.

Shapes: K tokens, D d_model.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from openwork.errors import UserError
from openwork.model import ModelConfig, Transformer
from openwork.model.sites import STREAM_SITES
from openwork.tasks import Pairs


def refuse_unknowable(config: ModelConfig) -> None:
    """Raise a `UserError` for a wiring in which channels are no function of the token."""
    what = ""
    if config.positions != "none":
        what = f"model.positions is {config.positions!r}"
    elif config.norm != "rms":
        what = f"model.norm is {config.norm!r}"
    elif set(config.sparse_sites) & set(STREAM_SITES) and config.activation_fraction < 1:
        what = "the residual stream itself is sparse"
    if what:
        raise UserError(f"{what}, with which a token does not decide what a circuit reads; leave --program out")


def tokens_of(pairs: Iterable[Pairs]) -> Tensor:
    """(K,) int64, ascending: the tokens of the prompts, padding left out."""
    found = []
    for some in pairs:
        inside = torch.arange(some.tokens.shape[-1]) <= some.last[:, None, None]
        found.append(some.tokens[inside.expand_as(some.tokens)])
    return torch.cat(found).unique()


@dataclass(frozen=True)
class Contest:
    """AbsTopK: those who compete with `rivals` for `places` keep their value if it is among the largest of all.

    Of k places, the k - n largest constants never lose theirs to any of n competitors. A constant that competes itself
    is a competitor too: one more is enough for all of them, since then the smallest of the safe ones is a rival.
    """

    places: int
    rivals: Tensor
    """(..., r): magnitudes, descending."""

    @classmethod
    def of(cls, n: int, constants: Tensor, k: int) -> Contest | None:
        """Of `n` competitors and `constants` (..., c) for k places; None if every competitor has a place."""
        safe = max(0, k - n)  # so many of the constants cannot lose theirs
        rivals = constants.abs().sort(-1, descending=True).values[..., safe:k]
        none_matters = n + rivals.shape[-1] <= k - safe or not bool((rivals > 0).any())
        return None if n == 0 or (none_matters and n <= k) else cls(k - safe, rivals)


def n_places(config: ModelConfig, kind: str, width: int) -> int:
    """How many of the `width` channels of a site of this `kind` (its name without the layer) AbsTopK keeps."""
    return max(1, int(width * config.activation_fraction)) if kind in config.sparse_sites else width


def kept_largest(x: Tensor, k: int) -> Tensor:
    """AbsTopK of x (..., width): the first of equal magnitudes keep their place."""
    if k >= x.shape[-1]:
        return x
    order = x.abs().sort(dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(x).scatter(-1, order[..., :k], x.gather(-1, order[..., :k]))


def after_contest(constants: Tensor, outside: Tensor, k: int, index: int) -> float | None:
    """What AbsTopK makes of a constant; None if the nodes that are not `outside` decide whether it keeps its place."""
    value, n = float(constants[index]), int((~outside).sum())
    larger = int((constants[outside].abs() > abs(value)).sum())
    if value == 0 or larger >= k:
        return 0.0
    return value if larger + n < k else None


class KnownStream:
    """The channels of the residual stream that tokens alone decide, as the circuit runs on (float64)."""

    def __init__(self, model: Transformer, tokens: Tensor) -> None:
        self.x = model.embed.weight.detach()[tokens].double()
        """(K, D); zero in channels that are no longer known."""
        self.known = torch.ones(self.x.shape[1], dtype=torch.bool)
        self.relu = model.config.residual_activation == "relu"

    def take(self, channel: int) -> Tensor:
        """(K,): the values of `channel`, which from now on varies."""
        values = self.x[:, channel].clone()
        self.x[:, channel] = 0
        self.known[channel] = False
        return values

    def add(self, constant: Tensor) -> None:
        """Write the `constant` (D,) into the known channels, by a block's write."""
        self.x = self.x + torch.where(self.known, constant, 0)
        if self.relu:
            self.x = self.x.relu()

    def squares(self) -> Tensor:
        """(K,): the sum of squares of the known channels."""
        return self.x.square().sum(-1)
