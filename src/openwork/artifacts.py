"""What crosses between the stages, as files: tensor files, `Circuit` and `Card`.

Tensors travel as safetensors with a JSON header (``format_version`` in it) and a checksum, so that a flipped bit is
refused. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor

from openwork.errors import UserError
from openwork.files import read_bytes, read_json, sha256_of, write_atomically

FORMAT_VERSION = 1
Ablation = Literal["mean", "zero"]
Edit = Callable[[Tensor], Tensor]
log = logging.getLogger(__name__)


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any], kind: str) -> None:
    """Save `tensors` and a JSON `header` as one safetensors file of the given `kind`, with a checksum over both.

    Checksum and header are one metadata entry, ``SHA-256 JSON``, because safetensors writes several in any order: the
    same content gives the same bytes.
    """
    text = json.dumps({**header, "kind": kind, "format_version": FORMAT_VERSION}, sort_keys=True)
    contiguous, storages = {}, set()
    for name, tensor in sorted(tensors.items()):
        whole = tensor.detach().cpu().contiguous()
        storage = whole.untyped_storage().data_ptr()
        contiguous[name] = whole.clone() if storage in storages else whole  # safetensors refuses what shares memory
        storages.add(storage)
    metadata = {"openwork": f"{_checksum(text, contiguous)} {text}"}
    write_atomically(path, save_safetensors(contiguous, metadata=metadata))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header that `save_tensors` wrote.

    Raises:
        UserError: the file is missing, truncated, altered, of another kind or of a newer format.
    """
    data = read_bytes(path, kind)
    try:
        length = int.from_bytes(data[:8], "little")
        if length > len(data) - 8:
            raise ValueError("shorter than its header says")
        metadata = json.loads(data[8 : 8 + length])["__metadata__"]["openwork"]
        checksum, _, text = metadata.partition(" ")
        header = json.loads(text)
        found, version = header["kind"], int(header["format_version"])
        with torch.device("cpu"):
            tensors = load_safetensors(data)
    except (SafetensorError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no whole {kind} file ({reason}); make or copy it again") from error
    if found != kind:
        raise UserError(f"{path} holds a {found}, not a {kind}; give the path of a {kind}")
    if version > FORMAT_VERSION:
        raise UserError(f"{path} has format {version}, newer than {FORMAT_VERSION}; update openwork")
    if _checksum(text, tensors) != checksum:
        raise UserError(f"{path} was altered: its checksum differs; make or copy it again")
    return tensors, header


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and bytes of `tensors`, in the order of their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    return sha256_of((text + tensors_hash(tensors)).encode())


class Edge(NamedTuple):
    """One non-zero weight from one node to another."""

    source: str
    target: str
    weight: float


class Runs(Protocol):
    """What a circuit asks of its model."""

    @property
    def hash(self) -> str: ...

    def run(
        self,
        tokens: Tensor,
        record: Sequence[str] = ...,
        edit: Mapping[str, Edit] = ...,
        weights: Mapping[str, Tensor] = ...,
        *,
        due: Tensor | None = ...,
    ) -> tuple[Tensor, dict[str, Tensor]]: ...

    def weights_of(self, edges: Iterable[Edge], values: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


class Poses(Protocol):
    """What a circuit asks of its task."""

    @property
    def name(self) -> str: ...

    @property
    def hash(self) -> str: ...

    def pairs(self, split: Any, n: int, seed: int = 0) -> Any: ...


@dataclass(frozen=True, eq=False)
class Circuit:
    """The nodes and weights of one model that perform one task, with all that is needed to run them.

    Outside the circuit every node takes its ablation value, the same at every prompt and position (paper, 2.2), and
    every weight carries that of its source (behind a head, the mean of what it moves): a constant, which joins the
    target's bias. `run` is the one definition of what a circuit computes. Its answers are calibrated:
    ``scale * (logit of A - logit of B) + shift`` (paper, A.5).
    """

    model_hash: str
    task: str
    task_hash: str
    ablation: Ablation
    nodes: tuple[str, ...]
    """Names of the kept nodes, in forward order, such as ``0.mlp.post_act.790`` or ``1.attn.v.head3.ch0``."""
    edges: tuple[Edge, ...]
    """The weights that carry activations, all between kept nodes."""
    kept: dict[str, Tensor]
    """For each site with kept nodes, their indices (int64, ascending)."""
    ablation_values: dict[str, Tensor]
    """For each node site, the value (width,) that a node takes when it is off; for ``attn.y``, which has no nodes, what
    the weights outside the circuit carry behind a head."""
    scale: float
    shift: float
    seed: int
    target: float
    """The task loss to reach, in nats."""
    losses: dict[str, float]
    """Measured, in nats: ``unpruned`` and ``circuit`` on the validation pairs, and what else was measured."""
    n_pairs: int
    """Validation pairs behind ``losses``; they are ``task.pairs("validation", n_pairs)``."""
    n_possible_nodes: int
    n_possible_edges: int
    """Nodes and non-zero weights between nodes in the whole model."""
    tried: tuple[dict[str, Any], ...] = ()
    """What each seed of the search reached; the best one is this circuit."""
    model: Runs | None = field(default=None, repr=False)

    @property
    def reached(self) -> bool:
        """Whether the circuit's loss is at most the target."""
        return self.losses["circuit"] <= self.target

    def edits(self, *, complement: bool = False) -> dict[str, Edit]:
        """For each node site, the function that ablates all but the circuit (`complement`: the circuit alone)."""
        return {
            site: _ablate(values, self.kept.get(site), keep_listed=not complement)
            for site, values in self.ablation_values.items()
            if not site.endswith("attn.y")
        }

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return self._model().weights_of(self.edges, self.ablation_values)

    def run(
        self, tokens: Tensor, record: Sequence[str] = (), due: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The circuit's logits (batch, position, d_vocab), before calibration, and its activations at `record`ed sites,
        for tokens (batch, position).

        Where `due` (batch,) names one position of each text, logits are made there alone: (batch, d_vocab).
        """
        return self._model().run(tokens, record=record, edit=self.edits(), weights=self._weights, due=due)

    def __call__(self, tokens: Tensor, due: Tensor | None = None) -> Tensor:
        """The logits that `run` gives."""
        return self.run(tokens, due=due)[0]

    def loss(self, task: Poses) -> float:
        """The circuit's calibrated loss on the validation pairs of `task`, in nats: the stated loss again.

        Raises:
            UserError: `task` is not the one that the circuit was found for, or has other templates or names.
        """
        self.check_task(task)
        pairs = task.pairs("validation", self.n_pairs)
        with torch.no_grad():
            return float(pairs.loss(self(pairs.flat, pairs.due), self.scale, self.shift))

    def check_task(self, task: Poses) -> None:
        """Raise a `UserError` if `task` is not the one that the circuit was found for."""
        if task.hash != self.task_hash:
            raise UserError(
                f"this circuit is of task {self.task} ({self.task_hash[:12]}), not of {task.name} ({task.hash[:12]}); "
                "give its own task, or prune again"
            )

    def _model(self) -> Runs:
        if self.model is None:
            raise UserError("this circuit has no model to run on; open it with load_circuit(path, model)")
        return self.model

    def save(self, path: str | Path) -> None:
        """Write the circuit as one file: a JSON header and safetensors."""
        left_out = {"kept", "ablation_values", "model"}
        header = {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in left_out}
        tensors = {f"kept.{site}": index for site, index in self.kept.items()}
        tensors |= {f"ablation_values.{site}": values for site, values in self.ablation_values.items()}
        save_tensors(path, tensors, header, "circuit")


def read_circuit(path: str | Path, model: Runs) -> Circuit:
    """The circuit in `path`, on `model`; what it says of that is believed (`openwork.load_circuit` believes nothing).

    Raises:
        UserError: the file is damaged, or the circuit belongs to another model (both hashes are named).
    """
    tensors, header = load_tensors(path, "circuit")
    if header["model_hash"] != model.hash:
        raise UserError(
            f"the circuit {path} belongs to the model {header['model_hash'][:12]}, not to {model.hash[:12]}; "
            "load the model it was found in, or prune again"
        )
    fields = {name: value for name, value in header.items() if name not in ("kind", "format_version")}
    try:
        return Circuit(
            **{
                **fields,
                "nodes": tuple(fields["nodes"]),
                "edges": tuple(Edge(*edge) for edge in fields["edges"]),
                "tried": tuple(fields["tried"]),
                "kept": _with_prefix(tensors, "kept."),
                "ablation_values": _with_prefix(tensors, "ablation_values."),
            },
            model=model,
        )
    except (TypeError, KeyError) as error:
        raise UserError(f"the circuit {path} lacks something ({error}); prune again") from error


def bind(circuit: Circuit, model: Runs) -> Circuit:
    """The same circuit, running on `model`."""
    return replace(circuit, model=model)


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _ablate(values: Tensor, listed: Tensor | None, *, keep_listed: bool) -> Edit:
    """x -> x where kept, `values` elsewhere; `listed` are the indices that are kept (or, if not, those ablated)."""
    on = torch.full(values.shape, not keep_listed)
    if listed is not None:
        on[listed] = keep_listed

    def edit(x: Tensor) -> Tensor:
        return torch.where(on.to(x.device), x, values.to(x))

    return edit


@dataclass(frozen=True)
class Check:
    """One question asked of a circuit: a value, what the control gives, and whether the answer is the hoped one."""

    name: str
    question: str
    value: float
    unit: str
    control: float | None
    """The same measure for the control (of many that which `control_name` says), None where there is none."""
    control_name: str
    threshold: str
    """The bound that decides, in words, such as ``<= 0.25``."""
    passed: bool
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """The faithfulness card: what was asked of a circuit, beside controls that could say no."""

    model_hash: str
    task: str
    task_hash: str
    n_nodes: int
    n_edges: int
    seed: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def save(self, path: str | Path) -> None:
        """Write the card as JSON, with a checksum over the rest of it."""
        content = {**asdict(self), "passed": self.passed, "kind": "card", "format_version": FORMAT_VERSION}
        write_atomically(path, json.dumps({**content, "sha256": _card_hash(content)}, indent=2) + "\n")


def load_card(path: str | Path) -> Card:
    """The card that `Card.save` wrote; a `UserError` if it is damaged or altered."""
    content = read_json(path, "card")
    if content.get("kind") != "card":
        raise UserError(f"{path} holds no card; give the path of a card")
    if content.get("format_version") not in range(1, FORMAT_VERSION + 1):
        raise UserError(f"{path} is no card of format {FORMAT_VERSION} or older; update openwork")
    try:
        if content["sha256"] != _card_hash(content):
            raise UserError(f"the card {path} was altered: its checksum differs; make it again")
        names = set(Card.__dataclass_fields__) - {"checks"}
        checks = tuple(Check(**check) for check in content["checks"])
        card = Card(**{name: content[name] for name in names}, checks=checks)
        [check.value + (check.control or 0.0) for check in checks]  # numbers, or a TypeError
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"the card {path} lacks something ({error}); make it again") from error
    return card


def _card_hash(content: Mapping[str, Any]) -> str:
    return sha256_of(json.dumps({k: v for k, v in content.items() if k != "sha256"}, sort_keys=True).encode())
