"""The model card that goes with every export: what was measured, what it was made of, and what is not known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from openwork.files import read_json, write_atomically
from openwork.model import Transformer
from openwork.training.metrics import read_metrics

UNKNOWN = "not recorded"
SHOWN = {
    "validation_loss": "validation loss, nats per token",
    "tokens": "tokens seen in training",
    "density": "fraction of weights that are not zero",
    "dead_neurons": "dead neurons",
    "dead_qk_channels": "dead q/k channels",
}
"""Numbers of a training run that the card shows, if they were measured."""


HOW_TO_USE = """    import openwork
    model = openwork.load_model("{directory}")
    logits, acts = model.run(tokens, record=["0.mlp.post_act"])
"""


def about_model(path: str | Path) -> dict[str, Any]:
    """What the Model directory `path` records of itself: where it comes from and what was measured in training."""
    path = Path(path)
    about = dict(read_json(path / "config.json", "model config").get("about") or {})
    if lines := read_metrics(path):
        about["measured"] = {name: lines[-1][name] for name in SHOWN if name in lines[-1]}
    return about


def model_card(model: Transformer, about: dict[str, Any], how_to_use: str, directory: str | Path = "DIRECTORY") -> str:
    """A README.md for `model`, with the front matter that the Hub reads.

    `about` may have ``source`` (where the model comes from), ``data`` (what it was trained on), ``licence`` (of the
    weights), ``corpus`` (the hash of the corpus) and ``measured`` (numbers).
    """
    c, measured = model.config, about.get("measured", {})
    kind = "Weight-sparse" if _nonzero(model) < 0.5 * _parameters(model) else "Dense"
    licence = about.get("licence")
    rows = [*describe(model).items(), *((SHOWN[name], value) for name, value in measured.items())]
    front = {"license": licence.lower() if licence else "unknown", "library_name": "openwork"}
    return "\n".join(
        [
            "---",
            *(f"{key}: {value}" for key, value in front.items()),
            "pipeline_tag: text-generation",
            "tags: [openwork, interpretability]",
            "---",
            "",
            f"# {kind} transformer, {c.n_layers} layers, d_model {c.d_model}",
            "",
            f"- Source: {about.get('source', 'trained with Openwork')}",
            f"- Data: {about.get('data') or _corpus(about)}",
            f"- Licence of the weights: {licence or UNKNOWN}; the licence of the data applies to what it reproduces",
            "",
            "| what | value |",
            "|---|---|",
            *(f"| {name} | {_text(value)} |" for name, value in rows),
            "",
            "" if measured else "No loss was measured for this export.\n",
            how_to_use.format(directory=directory),
            "It is made to be read, not to be relied on: what it writes looks right and often is not.",
            "",
        ]
    )


def describe(model: Transformer) -> dict[str, Any]:
    """Sizes and identity of `model`, counted."""
    c = model.config
    return {
        "parameters": _parameters(model),
        "non-zero parameters": _nonzero(model),
        "entries of the bigram table": c.d_vocab**2 if c.bigram != "off" else 0,
        "layers": c.n_layers,
        "d_model": c.d_model,
        "heads": c.n_heads,
        "d_mlp": c.d_mlp,
        "context": c.n_ctx,
        "vocabulary": c.d_vocab,
        "hash": model.hash,
    }


def write_model_card(model: Transformer, about: dict[str, Any], directory: Path) -> None:
    """Write the card of `model` as README.md of its Model `directory`."""
    write_atomically(directory / "README.md", model_card(model, about, HOW_TO_USE, directory))


def _text(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else f"`{value}`"


def _parameters(model: Transformer) -> int:
    return sum(parameter.numel() for name, parameter in model.named_parameters() if name != "bigram")


def _nonzero(model: Transformer) -> int:
    return sum(int(torch.count_nonzero(p)) for name, p in model.named_parameters() if name != "bigram")


def _corpus(about: dict[str, Any]) -> str:
    return f"the corpus with hash `{about['corpus']}`" if "corpus" in about else UNKNOWN
