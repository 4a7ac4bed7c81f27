"""The page of a circuit: one HTML file that needs no network, and its drawing as a picture.

    artefacts -> gather -> Payload -> page

The viewer reads what the stages have left; it knows nothing of training.
"""

from __future__ import annotations

from pathlib import Path

from openwork.artifacts import Card, Circuit
from openwork.corpus import Corpus
from openwork.files import write_atomically
from openwork.model import Transformer
from openwork.tasks import Task
from openwork.viewer.gather import gather
from openwork.viewer.page import render
from openwork.viewer.picture import picture

__all__ = ["picture", "write_page"]


def write_page(
    path: str | Path, circuit: Circuit, task: Task, card: Card | None, model: Transformer, corpus: Corpus
) -> None:
    """Write the page of `circuit` to `path`: one HTML file that opens without a network or a server.

    Raises:
        UserError: the parts do not belong together, or the file cannot be written.
    """
    write_atomically(path, render(gather(circuit, task, card, model, corpus)))
