"""Live progress on the terminal: one line that moves where there is a terminal, a line now and then where there is
none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

QUIET_SECONDS = 15
"""Seconds between two lines where output is not a terminal."""


class Bar:
    """A bar with a text of numbers beside it; without a terminal, a printed line every `QUIET_SECONDS`."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), TaskProgressColumn()]
        columns += [
            TextColumn("{task.fields[numbers]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        ]
        self.live = Progress(*columns, console=console, disable=not console.is_terminal, speed_estimate_period=60)
        self.task = self.live.add_task(title, total=None, numbers="")
        self.began = self.printed = time.monotonic()
        self.first: int | None = None
        self.finished = False

    def show(self, done: int, total: int | None, numbers: str) -> None:
        """`done` of `total` steps, with `numbers` beside the bar."""
        self.first = done - 1 if self.first is None else self.first
        self.live.update(self.task, completed=done, total=total, numbers=numbers)
        now = time.monotonic()
        finishes, self.finished = done == total and not self.finished, done == total
        if not self.console.is_terminal and (now - self.printed > QUIET_SECONDS or finishes):
            self.printed = now
            share = f"{done / total:4.0%}, {self._left(done, total, now)}" if total else f"{done}"
            self.console.print(f"{self.title}: {share}  {numbers}", highlight=False, markup=False)

    def _left(self, done: int, total: int, now: float) -> str:
        assert self.first is not None
        seconds = (now - self.began) / max(1, done - self.first) * (total - done)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"


@contextmanager
def corpus_progress(console: Console) -> Iterator[Callable[[str, int, int | None], None]]:
    """Progress of `openwork.corpus.build_corpus`."""
    bar = Bar(console, "corpus")
    with bar.live:
        yield lambda stage, done, total: bar.show(done, total, stage)


@contextmanager
def download_progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """Progress of `openwork.interop.openai.download`: the file, and its bytes."""
    bar = Bar(console, "download")
    with bar.live:
        yield lambda file, done, total: bar.show(done, total, f"{file} {done / 2**20:,.1f} MiB")


@contextmanager
def training_progress(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Progress of `openwork.training.train`: loss, L0, tokens per second, time left."""
    bar, seen = Bar(console, "train"), {"validation": "", "speed": 0.0}

    def report(line: dict[str, Any]) -> None:
        seen["speed"] = 0.9 * (seen["speed"] or line["tokens_per_second"]) + 0.1 * line["tokens_per_second"]
        if "validation_loss" in line:
            seen["validation"] = f"validation {line['validation_loss']:.3f}  L0 {line['l0']:,}  "
        numbers = (
            f"loss {line['loss']:.3f}  {seen['validation']}density {line['density']:.3f}  {seen['speed']:,.0f} tokens/s"
        )
        bar.show(line["step"], line["n_steps"], numbers)

    with bar.live:
        yield report


@contextmanager
def pruning_progress(console: Console) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Progress of `openwork.pruning.prune`: the phase, its step where their number is known, loss and size."""
    bar, count = Bar(console, "prune"), 0

    def report(line: dict[str, Any]) -> None:
        nonlocal count
        count += 1
        trials = f", {line['trials']} trials" if "trials" in line else ""
        found = f": loss {line['loss']:.3f}  size {line['size']:,}" if "loss" in line else ""
        bar.show(line.get("step", count), line.get("n_steps"), f"{line['phase']}{trials}{found}")

    with bar.live:
        yield report
