"""How numbers stand in programs."""

from __future__ import annotations

from collections.abc import Iterable


def number(x: float) -> str:
    """`x` with seven digits, about what float32 has."""
    return f"{x:.7g}"


def total(terms: Iterable[str], constant: float) -> str:
    """The sum of products and of a constant, such as ``-0.19 * a0_39 + 0.21 * a0_126 - 0.05``."""
    parts = [*terms, *([number(constant)] if constant else [])] or ["0"]
    return parts[0] + "".join(f" - {part[1:]}" if part.startswith("-") else f" + {part}" for part in parts[1:])
