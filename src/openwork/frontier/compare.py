"""Sparse against dense: both models pruned to the same loss on every task that both can do (paper, 3.1 and figure 3).

Every circuit is a file as soon as it is found, so that a comparison that was stopped goes on where it was. A circuit
counts as it was found, seed by seed: the best of several seeds would flatter whoever was searched longer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import geometric_mean
from typing import Any, Literal

from openwork import tasks
from openwork.artifacts import Circuit
from openwork.config import to_dict
from openwork.errors import UserError
from openwork.files import write_atomically
from openwork.model import Transformer
from openwork.pruning import PruneConfig, ablation_values, load_circuit, prune
from openwork.pruning.problem import Report
from openwork.tasks.base import NONSENSE
from openwork.tasks.survey import try_tasks

Side = Literal["sparse", "dense"]
SIDES: tuple[Side, Side] = ("sparse", "dense")
Size = Literal["edges", "nodes"]
SIZES: tuple[Size, Size] = ("edges", "nodes")
CAN_DO = 0.15
"""Unpruned loss in nats below which a model can do a task (paper, A.5)."""


@dataclass(frozen=True)
class Found:
    """What one search in one model came to."""

    side: Side
    task: str
    seed: int
    reached: bool
    loss: float
    nodes: int
    edges: int


@dataclass(frozen=True)
class Comparison:
    """The circuits of two models on the tasks that both can do."""

    target: float
    unpruned: Mapping[str, tuple[float, float]]
    """For every task, the loss of the sparse and of the dense model; infinite where the task does not suit a model."""
    found: tuple[Found, ...]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that both can do."""
        return shared(self.unpruned)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({one.seed for one in self.found}))

    def of(self, side: Side, task: str, seed: int) -> Found:
        """The circuit of `task` that `seed` found in the model of this `side`."""
        return next(f for f in self.found if (f.side, f.task, f.seed) == (side, task, seed))

    def failed(self, seed: int) -> tuple[str, ...]:
        """The tasks whose target `seed` did not reach in one of the models; they are in no mean."""
        return tuple(task for task in self.tasks if not all(self.of(side, task, seed).reached for side in SIDES))

    def mean(self, side: Side, size: Size, seed: int) -> float:
        """Geometric mean of a size over the tasks that `seed` reached in both; NaN if there are none.

        A circuit without edges (the answer needs none) counts as one of one edge, for the logarithm's sake.
        """
        counted = [task for task in self.tasks if task not in self.failed(seed)]
        sizes = [max(1, getattr(self.of(side, task, seed), size)) for task in counted]
        return geometric_mean(sizes) if sizes else float("nan")

    def ratio(self, size: Size, seed: int) -> float:
        """How many times larger the dense model's circuits are."""
        return self.mean("dense", size, seed) / self.mean("sparse", size, seed)

    def rows(self) -> list[dict[str, Any]]:
        """One for every task and seed, and one for every task that a model cannot do; cells are sparse / dense."""
        rows = []
        for task, losses in self.unpruned.items():
            for seed in self.seeds if task in self.tasks else ("",):
                row: dict[str, Any] = {"task": task, "seed": seed, "unpruned": " / ".join(f"{x:.3f}" for x in losses)}
                of = [self.of(side, task, seed) for side in SIDES] if isinstance(seed, int) else []
                row |= {size: " / ".join(f"{getattr(one, size):,}" for one in of) for size in SIZES}
                row["times"] = of[1].edges / max(1, of[0].edges) if of else ""
                row["missed"] = ", ".join(f"{one.side} {one.loss:.3f}" for one in of if not one.reached)
                rows.append(row)
        return _without_empty("missed", rows)

    def means(self) -> list[dict[str, Any]]:
        """Means and ratios, one row for every seed; sizes are sparse / dense."""
        rows = [
            {
                "seed": seed,
                "tasks": len(self.tasks) - len(self.failed(seed)),
                "failed": ", ".join(self.failed(seed)),
                **{size: " / ".join(f"{self.mean(side, size, seed):,.1f}" for side in SIDES) for size in SIZES},
                **{f"times, {size}": self.ratio(size, seed) for size in SIZES},
            }
            for seed in self.seeds
        ]
        return _without_empty("failed", rows)

    def summary(self) -> dict[str, Any]:
        """Every number, for JSON."""
        return {
            "target": self.target,
            "tasks": list(self.tasks),
            "unpruned": {task: dict(zip(SIDES, losses, strict=True)) for task, losses in self.unpruned.items()},
            "found": [asdict(one) for one in self.found],
            "means": [
                {
                    "seed": seed,
                    "tasks": [task for task in self.tasks if task not in self.failed(seed)],
                    **{f"{side}_{size}": self.mean(side, size, seed) for side in SIDES for size in SIZES},
                    **{f"{size}_dense_over_sparse": self.ratio(size, seed) for size in SIZES},
                }
                for seed in self.seeds
            ],
        }


def _without_empty(column: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows without a column in which nothing stands."""
    empty = not any(row[column] for row in rows)
    return [{name: cell for name, cell in row.items() if not (empty and name == column)} for row in rows]


def shared(unpruned: Mapping[str, tuple[float, float]]) -> tuple[str, ...]:
    """The tasks that both models can do."""
    return tuple(task for task, losses in unpruned.items() if max(losses) < CAN_DO)


def compare(
    sparse: Transformer,
    dense: Transformer,
    out: Path,
    *,
    names: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    config: PruneConfig | None = None,
    at_hand: Mapping[Side, Mapping[str, Path]] | None = None,
    report: Report = lambda line: None,
) -> Comparison:
    """Prune both models on all of the tasks `names` that both can do, one search for each seed.

    The circuits lie in `out`, as ``sparse/TASK-SEED.circuit`` and ``dense/TASK-SEED.circuit``, and ``search.json`` says
    how they were looked for; those that are there are not looked for again. With `at_hand`, the files of both models'
    circuits by task, nothing is looked for, and `out` stays as it is.

    Raises:
        UserError: a model has no tokenizer or no means, a task is unknown or there is none that both can do, or a
            circuit in `out` or `at_hand` is of another model, task or search, or is not there.
    """
    config, names = config or PruneConfig(), tuple(names or tasks.names())
    models: dict[Side, Transformer] = {"sparse": sparse, "dense": dense}
    _check(models, names, config)
    kept = out / "search.json"
    if at_hand is None and kept.is_file():
        _same_search(kept, config)
    of_sparse, of_dense = (_losses(model, side, names, report) for side, model in models.items())
    unpruned = {name: (of_sparse[name], of_dense[name]) for name in names}
    if not shared(unpruned):
        nearest = min(unpruned, key=lambda name: max(unpruned[name]))
        losses = " and ".join(f"{loss:.3g}" for loss in unpruned[nearest])
        raise UserError(
            f"no task has an unpruned loss below {CAN_DO} in both models (the nearest, {nearest}, has {losses}); "
            "compare better models"
        )
    if at_hand is None and not kept.is_file():
        write_atomically(kept, json.dumps(to_dict(config), indent=2) + "\n")
    found = []
    for task, (side, model), seed in product(shared(unpruned), models.items(), seeds):
        posed = tasks.get(task, model.tokenizer)
        if at_hand is not None:
            path = _at_hand(at_hand[side], side, task)
        elif not (path := out / side / f"{_stem(task)}-{seed}.circuit").is_file():
            prune(model, posed, seed=seed, config=config, report=report).save(path)
        circuit = _of_this_search(load_circuit(path, model), path, posed, seed, config)
        size = {"nodes": len(circuit.nodes), "edges": len(circuit.edges)}
        found.append(Found(side, task, seed, circuit.reached, circuit.losses["circuit"], **size))
    return Comparison(config.target, unpruned, tuple(found))


def _check(models: Mapping[Side, Transformer], names: Sequence[str], config: PruneConfig) -> None:
    """What would end the comparison late, or drop a task from it without a word."""
    stems: dict[str, str] = {}
    for name in names:
        tasks.example(name.removesuffix(NONSENSE))  # refuses an unknown one
        other = stems.setdefault(_stem(name), name)
        if other != name:
            raise UserError(f"the circuits of {other} and {name} would be the same files; rename one of the tasks")
    for side, model in models.items():
        if model.tokenizer is None:
            raise UserError(f"the {side} model has no tokenizer, which tasks need; compare models that have one")
        ablation_values(model, config.ablation)  # refuses a model without means


def _same_search(path: Path, config: PruneConfig) -> None:
    """Refuse where `path` says that the circuits beside it were looked for otherwise."""
    asked = to_dict(config)
    try:
        found = json.loads(path.read_text())
        differs = next((name for name in {**asked, **found} if found.get(name) != asked.get(name)), None)
    except (ValueError, AttributeError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}); delete it, if what lies beside it is of this search") from error
    if differs is not None:
        raise UserError(
            f"{path} has the {differs} {found.get(differs)}, not {asked.get(differs)}; give another --out, or delete "
            "this directory"
        )


def _stem(task: str) -> str:
    """What the circuit files of a task are named by."""
    base = Path(task.removesuffix(NONSENSE)).stem
    return base + NONSENSE if task.endswith(NONSENSE) else base


def _losses(model: Transformer, side: Side, names: Sequence[str], report: Report) -> dict[str, float]:
    rows = try_tasks(model, names, report=lambda name: report({"phase": f"try {name} in the {side} model"}))
    return {row["task"]: float("inf") if row["loss"] == "" else row["loss"] for row in rows}


def _at_hand(files: Mapping[str, Path], side: Side, task: str) -> Path:
    """The file of the circuit of `task` among those at hand of the model of this `side`."""
    if (stem := _stem(task)) not in files:
        raise UserError(f"no circuit of {task} lies with the {side} model; search for it, or leave that task out")
    return files[stem]


def _of_this_search(circuit: Circuit, path: Path, task: tasks.Task, seed: int, config: PruneConfig) -> Circuit:
    """The circuit in `path`, refused if it is not what was asked for."""
    asked = {"task": task.hash, "target": config.target, "seed": seed, "ablation": config.ablation}
    found = {"task": circuit.task_hash, "target": circuit.target, "seed": circuit.seed, "ablation": circuit.ablation}
    for what, value in asked.items():
        if found[what] != value:
            raise UserError(
                f"{path} has the {what} {found[what]}, not {value}; ask for that one, or keep it elsewhere and search"
            )
    if len(circuit.tried) > 1:
        raise UserError(
            f"{path} is the best of {len(circuit.tried)} searches, where one a seed is compared; search with one seed"
        )
    return circuit
