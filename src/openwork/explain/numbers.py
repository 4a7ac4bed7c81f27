"""How numbers stand in programs and in texts."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import wrap

WIDTH = 120


def number(x: float) -> str:
    """`x` with nine digits: every float32 to the bit."""
    return f"{x:.9g}"


def total(terms: Iterable[str], constant: float) -> str:
    """The sum of products and of a constant, such as ``-0.19 * a0_39 + 0.21 * a0_126 - 0.05``."""
    parts = [*terms, *([number(constant)] if constant else [])] or ["0"]
    return parts[0] + "".join(f" - {part[1:]}" if part.startswith("-") else f" + {part}" for part in parts[1:])


def two(means: tuple[float, float]) -> str:
    """The means of members A and B."""
    return f"{value(means[0])} > {value(means[1])}"


def value(x: float) -> str:
    """`x` with its sign and three digits."""
    return "0" if abs(x) < 5e-4 else f"{x:+.3g}"


def signed(x: float) -> str:
    """`x` as a term of a sum, three digits."""
    return f"{'-' if x < 0 else '+'} {abs(x):.3g}"


def percent(x: float) -> str:
    """The share `x` in percent."""
    return f"{100 * x:.0f}%" if abs(x) >= 0.01 or x == 0 else f"{100 * x:.1f}%"


def wrapped(text: str, first: str = "", then: str = "") -> list[str]:
    """`text` in lines, the first one indented with `first`, the others with `then`."""
    return wrap(text, WIDTH, initial_indent=first, subsequent_indent=then, break_long_words=False)
