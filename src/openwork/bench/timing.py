"""Interleaved timing: every round runs each way once, so that whatever else the machine does meets all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def interleave(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each way in each of `rounds` rounds, after one round that is not timed."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            _finish()
            began = time.perf_counter()
            way()
            _finish()
            seconds[name].append(time.perf_counter() - began)
    return seconds


def _finish() -> None:
    """Wait for the work that was given to a GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def times(reference: list[float], other: list[float]) -> float:
    """How many times faster `other` is than `reference`: the median of the ratios within rounds."""
    return median(r / o for r, o in zip(reference, other, strict=True))


def repeat(n: int, f: Callable[[], object]) -> Callable[[], None]:
    """A way that calls `f` n times, for what is too short to be timed alone."""

    def way() -> None:
        for _ in range(n):
            f()

    return way


def peak(device: str = "cpu", rounds: int = 5) -> float:
    """Multiply-adds per second that this process reaches on `device`: the best of some large dense products.

    They are float32 on the CPU, bfloat16 on a GPU.
    """
    width, dtype = (1536, torch.float32) if device == "cpu" else (8192, torch.bfloat16)
    a, b = torch.randn(2, width, width, device=device, dtype=dtype)
    return width**3 / min(interleave({"product": lambda: a @ b}, rounds)["product"])
