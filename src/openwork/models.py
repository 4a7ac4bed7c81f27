"""A Model is a directory; here it is saved, loaded, and found by name.

config.json           wiring, hash, and what it was trained with
weights.safetensors   for each sparse matrix the kept indices and values, never a dense matrix of zeros; what bfloat16
                      holds exactly takes two bytes
tokenizer.json        the tokenizer
means.safetensors     mean activation of every node over the training corpus, once computed
metrics.jsonl, README.md, ...   written by training
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.artifacts import FORMAT_VERSION, load_tensors, save_tensors
from openwork.config import from_dict
from openwork.corpus import Corpus, Tokenizer
from openwork.errors import UserError
from openwork.files import read_json, write_atomically
from openwork.model import ModelConfig, Transformer, ablated_sites, check_memory
from openwork.sparsity import use_sparse_layers

REFERENCE = Path(__file__).parent / "reference"
NAMED: Mapping[str, Path] = {"reference-sparse": REFERENCE / "sparse", "reference-dense": REFERENCE / "dense"}
"""The models that come with the package; ``benchmarks/reference_pair.py`` made them."""
CIRCUITS = "circuits"
"""The directory, in that of a model, of the circuits that lie with it."""

SPARSE_BELOW = 0.4
"""A tensor is stored as indices and values where fewer than this fraction of its entries are non-zero."""


def names() -> tuple[str, ...]:
    """The names of the models that come with the package."""
    return tuple(NAMED)


def path(name: str | Path) -> Path:
    """The Model directory of a model that comes with the package.

    Raises:
        UserError: there is no model of that name.
    """
    if str(name) not in NAMED:
        raise UserError(f"no model {str(name)!r} comes with the package; choose among {', '.join(NAMED)}")
    return NAMED[str(name)]


def find(place: str | Path) -> Path:
    """`place`, or the directory of the model of that name that comes with the package, if nothing lies at `place`."""
    return NAMED[str(place)] if str(place) in NAMED and not Path(place).exists() else Path(place)


def circuits(directory: Path) -> dict[str, Path]:
    """The files of the circuits that lie with the model in `directory`, by name."""
    return {file.stem: file for file in sorted((directory / CIRCUITS).glob("*.circuit"))}


def list_models() -> list[dict[str, Any]]:
    """A row for each model that comes with the package: what it is, what it reaches, and the names of its circuits."""
    rows = []
    for name, directory in NAMED.items():
        content = read_json(directory / "config.json", "model config")
        config, about = content["model"], content["about"]
        rows.append(
            {
                "name": name,
                "layers": config["n_layers"],
                "d_model": config["d_model"],
                "density": about["training"]["sparsity"]["density"],
                "trained on tokens": about["training"]["tokens"],
                "validation loss": about["measured"]["validation_loss"],
                "circuits": list(circuits(directory)),
                "directory": str(directory),
            }
        )
    return rows


def save_model(model: Transformer, path: str | Path, about: dict[str, Any] | None = None) -> None:
    """Write `model` as a Model directory; `about` (training config, what was measured) goes into its config.json.

    config.json is written last and names the hash of the weights, so that a directory from two saves is refused.
    """
    path = Path(path)
    weights = {name: tensor for name, tensor in model.state_dict().items() if not _is_tied_copy(model, name)}
    packed, shapes = pack(weights)
    save_tensors(path / "weights.safetensors", packed, {"shapes": shapes}, "weights")
    if model.tokenizer is not None:
        model.tokenizer.save(path / "tokenizer.json")
    else:
        (path / "tokenizer.json").unlink(missing_ok=True)  # of a model that was here before
    if model.means:
        save_means(model, path)
    content = {"format_version": FORMAT_VERSION, "kind": "model", "hash": model.hash, "model": asdict(model.config)}
    write_atomically(path / "config.json", json.dumps({**content, "about": about or {}}, indent=2) + "\n")


def load_model(path: str | Path, *, device: str = "cpu") -> Transformer:
    """The Model in the directory `path`, in eval mode, with its tokenizer and, if they were computed, its means.

    `path` may be a name of `names`.

    Its linear layers skip the weights that are zero where that is faster; logits are those of dense layers to rounding.

    Raises:
        UserError: no Model there, a damaged file, or files that do not belong together.
    """
    path = find(path)
    if not (path / "config.json").is_file():
        raise UserError(
            f"{path} is no Model directory (it has no config.json); give the directory that training wrote, or a name "
            "that `openwork models` lists"
        )
    content = read_json(path / "config.json", "model config")
    if content.get("kind") != "model":
        raise UserError(f"{path}/config.json is not Openwork's; give the directory that training or an import wrote")
    if content.get("format_version") not in range(1, FORMAT_VERSION + 1):
        raise UserError(f"{path}/config.json is no model config of format {FORMAT_VERSION} or older; update openwork")
    config = _config_of(content, path / "config.json")
    check_memory(config, copies=1)
    with torch.device("cpu"):
        model = Transformer(config)
    packed, header = load_tensors(path / "weights.safetensors", "weights")
    _set_weights(model, packed, header.get("shapes"), path)
    if (path / "tokenizer.json").is_file():
        model.tokenizer = Tokenizer.load(path / "tokenizer.json")
        if model.tokenizer.d_vocab > model.config.d_vocab:
            raise UserError(
                f"the tokenizer in {path} has {model.tokenizer.d_vocab} tokens, the model {model.config.d_vocab}; "
                "put back the model's own tokenizer.json"
            )
    if model.hash != content.get("hash"):
        raise UserError(
            f"the files in {path} do not belong together: their hash is {model.hash[:12]}, config.json says "
            f"{str(content.get('hash'))[:12]} (a tokenizer or weights of another model?); restore them"
        )
    if (path / "means.safetensors").is_file():
        model.means = load_means(model, path)
    use_sparse_layers(model)
    return model.eval().to(device)


def _config_of(content: dict[str, Any], path: Path) -> ModelConfig:
    """The wiring in the `content` of the file `path`, which anyone may have written."""
    try:
        return from_dict(ModelConfig, content["model"], "model.")
    except (UserError, KeyError, AttributeError) as error:
        raise UserError(f"the model config {path} is damaged ({error}); restore it") from error


def save_means(model: Transformer, path: str | Path) -> None:
    """Keep ``model.means`` with the Model directory `path`."""
    save_tensors(Path(path) / "means.safetensors", model.means, {"model_hash": model.hash}, "means")


def load_means(model: Transformer, path: Path) -> dict[str, Tensor]:
    """The means kept in the Model directory `path`; none if they are another model's."""
    means, header = load_tensors(path / "means.safetensors", "means")
    return means if header["model_hash"] == model.hash and set(means) == set(ablated_sites(model.config)) else {}


def check_corpus(model: Transformer, corpus: Corpus) -> None:
    """Raise a `UserError` if the corpus has another tokenizer than the model, or, if it has none, tokens beyond it."""
    if model.tokenizer is not None and corpus.tokenizer.hash != model.tokenizer.hash:
        raise UserError(
            f"the corpus's tokenizer is {corpus.tokenizer.hash[:12]}, the model's is {model.tokenizer.hash[:12]}; "
            "give the model's own corpus"
        )
    if corpus.tokenizer.d_vocab > model.config.d_vocab:
        raise UserError(
            f"the corpus has {corpus.tokenizer.d_vocab} tokens, the model {model.config.d_vocab}; "
            "give the model's own corpus"
        )


def pack(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Each sparse tensor as ``name.indices`` (int32, into the flat tensor) and ``name.values``, the others as they are;
    with the shapes of the sparse ones. Values that bfloat16 holds exactly are stored so."""
    packed, shapes = {}, {}
    for name, tensor in tensors.items():
        flat = tensor.detach().cpu().reshape(-1)
        indices = ((flat != 0) | flat.signbit()).nonzero().squeeze(1)  # a zero with a sign is kept: the hash tells it
        if len(indices) < SPARSE_BELOW * tensor.numel():
            packed[f"{name}.indices"] = indices.int()
            packed[f"{name}.values"] = _in_half(flat[indices])
            shapes[name] = list(tensor.shape)
        else:
            packed[name] = _in_half(tensor)
    return packed, shapes


def _in_half(values: Tensor) -> Tensor:
    """`values` in bfloat16 if that changes none of them, bit by bit."""
    if values.dtype != torch.float32:
        return values
    half = values.bfloat16()
    return half if torch.equal(half.float().view(torch.int32), values.contiguous().view(torch.int32)) else values


@torch.no_grad()
def round_weights(model: Transformer) -> Transformer:
    """`model` with every weight rounded to bfloat16, in place: half the file, and another hash. Its means are gone."""
    for parameter in model.parameters():
        parameter.copy_(parameter.bfloat16())
    model.means = {}
    return model


def unpack(packed: dict[str, Tensor], shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The tensors that `pack` packed."""
    dense = {name: tensor for name, tensor in packed.items() if name.rpartition(".")[0] not in shapes}
    for name, shape in shapes.items():
        flat = packed[f"{name}.values"].new_zeros(shape).reshape(-1)
        flat[packed[f"{name}.indices"].long()] = packed[f"{name}.values"]
        dense[name] = flat.view(shape)
    return dense


def _is_tied_copy(model: Transformer, name: str) -> bool:
    return model.config.tied and name == "unembed.weight"


def _set_weights(model: Transformer, packed: dict[str, Tensor], shapes: Any, path: Path) -> None:
    """Unpack the weights into `model`; nothing is made that has not the size of one of its own tensors."""
    try:
        for name, shape in shapes.items():
            if shape != list(model.state_dict()[name].shape):
                raise ValueError(f"{name} has the shape {shape}")
        weights = unpack(packed, shapes)
        if model.config.tied:
            weights["unembed.weight"] = weights["embed.weight"]
        model.load_state_dict(weights)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"the weights in {path} do not fit its config.json: {reason}; restore the files") from error
