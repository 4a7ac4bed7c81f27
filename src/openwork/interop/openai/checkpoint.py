"""Open a PyTorch file from a stranger: look before anything is built, then load tensors and plain values alone.

A ``.pt`` file is a zip of a pickle and of raw storages. Its directory tells the sizes, its pickle names what it would
build; both are read here without building anything. What is left is loaded with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openwork.errors import UserError

TENSOR_NAMES = {
    ("torch._utils", "_rebuild_tensor_v2"),
    ("torch._utils", "_rebuild_parameter"),
    ("torch", "Size"),
    ("collections", "OrderedDict"),
}
"""What a file of tensors may name, beside the types of storages."""


def open_checkpoint(path: str | Path, what: str) -> Any:
    """What the PyTorch file `path`, a `what`, holds: tensors in plain containers, on the CPU.

    Raises:
        UserError: it is missing, truncated, compressed, in the form of before PyTorch 1.6, or its pickle names anything
            but tensors; no code of it was run and nothing larger than the file was allocated.
    """
    path = Path(path)
    _check_pickle(_pickle_of(path, what), path, what)
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # the library raises RuntimeError, UnpicklingError, EOFError, KeyError ...
        refused = isinstance(error, pickle.UnpicklingError)  # at length, with advice to trust the file
        reason = "its pickle does not build tensors" if refused else " ".join(str(error).split())[:160]
        raise UserError(f"the {what} {path} is damaged ({reason}); download it again") from error
    size = path.stat().st_size
    for name, tensor in tensors_in(content):
        needed, there = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
        if there > size or needed > there:
            raise UserError(
                f"the {what} {path} is damaged: {name} {tuple(tensor.shape)} needs {needed:,} bytes, the file has "
                f"{min(there, size):,}; download it again"
            )
    return content


def tensors_in(content: Any) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested dicts, lists and tuples, with the key that it stands under.

    Each container is entered once: a pickle can nest them deeply, within themselves, or one a million times.
    """
    left, seen = [("the tensor", content)], set()
    while left:
        name, value = left.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            named = value.items() if isinstance(value, dict) else ((name, item) for item in value)
            left += [(str(key), item) for key, item in named]


def _pickle_of(path: Path, what: str) -> bytes:
    """The pickle in the zip, once the zip's directory is found to hold no more than the file does."""
    if not path.is_file():
        raise UserError(f"there is no {what} {path}; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError(f"the {what} {path} is a compressed zip, which PyTorch never writes; download it again")
            total, size = sum(entry.file_size for entry in entries), path.stat().st_size
            if total > size:
                raise UserError(
                    f"the {what} {path} says that it holds {total:,} bytes and has {size:,}; download it again"
                )
            names = [entry.filename for entry in entries if entry.filename.endswith("data.pkl")]
            if len(names) != 1:
                raise UserError(f"the {what} {path} is a zip but no PyTorch file (no data.pkl in it); check the path")
            return archive.read(names[0])
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"the {what} {path} is no whole PyTorch file ({error}); download it again, or, if it is older than "
            "PyTorch 1.6, save it anew with a newer one"
        ) from error


def _check_pickle(data: bytes, path: Path, what: str) -> None:
    """Refuse a pickle that names anything but tensors and plain containers; nothing of it is executed."""
    strings: list[str] = []
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if isinstance(argument, str) and opcode.name != "GLOBAL":
                strings.append(argument)
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
            elif opcode.name == "STACK_GLOBAL":
                module, name = ([*strings[-2:], "?", "?"])[:2]
            elif opcode.name in ("INST", "EXT1", "EXT2", "EXT4"):
                module, name = opcode.name, str(argument)
            else:
                continue
            if (module, name) not in TENSOR_NAMES and not (module == "torch" and name.endswith("Storage")):
                raise UserError(
                    f"the {what} {path} would run {module}.{name} when opened; it was not run: a file of weights "
                    "holds tensors alone, so get one from a source that you trust"
                )
    except ValueError as error:  # pickletools: unknown opcode, truncated
        if isinstance(error, UserError):
            raise
        raise UserError(f"the {what} {path} has a damaged pickle ({error}); download it again") from error
