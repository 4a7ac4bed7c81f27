"""The model card: README.md of a Model directory, made from what was measured."""

from __future__ import annotations

from pathlib import Path

from openwork.corpus import Corpus
from openwork.files import write_atomically
from openwork.model import Transformer
from openwork.training.metrics import read_metrics

TEMPLATE = """# {kind} transformer, {n_layers} layers, d_model {d_model}

Trained by Openwork on `{source}` ({train_tokens:,} tokens in the corpus, {tokens:,} seen in training).

| what | value |
|---|---|
| validation loss, nats per token | {validation_loss:.3f} |
| non-zero parameters | {l0:,} of {parameters:,}{beside} |
| dead neurons | {dead_neurons:,} of {neurons:,} |
| dead q/k channels | {dead_qk_channels:,} of {qk_channels:,} |
| context, tokens | {n_ctx} |
| vocabulary | {d_vocab} |
| hash | `{hash}` |

`metrics.jsonl` has every step, `training.png` the curves, `config.json` all settings. Use it so:

    import openwork
    model = openwork.load_model("{path}")
    print(model.generate("def main(", 40))

It was trained to be read, not to be relied on: it is small, it writes Python that looks right and often is not, and it
repeats what its corpus says. The licence of the corpus applies to what it reproduces.
"""


def write_card(model: Transformer, corpus: Corpus, path: Path) -> None:
    """Write the card of `model`, whose run's metrics lie in the Model directory `path`."""
    c, last = model.config, read_metrics(path)[-1]
    parameters = {name: parameter.numel() for name, parameter in model.named_parameters()}
    table = parameters.pop("bigram", 0)
    text = TEMPLATE.format(
        kind="Weight-sparse" if last["density"] < 1 else "Dense",
        n_layers=c.n_layers,
        d_model=c.d_model,
        n_ctx=c.n_ctx,
        d_vocab=c.d_vocab,
        source=corpus.manifest.source,
        train_tokens=corpus.manifest.train.tokens,
        parameters=sum(parameters.values()),
        beside=f", and {table:,} in the dense bigram table" if table else "",
        neurons=c.n_layers * c.d_mlp,
        qk_channels=c.n_layers * c.d_head * c.n_heads,
        hash=model.hash,
        path=path,
        **{name: last[name] for name in ("tokens", "validation_loss", "l0", "dead_neurons", "dead_qk_channels")},
    )
    write_atomically(path / "README.md", text)
