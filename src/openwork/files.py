"""Files, written safely and read with one clear line where that fails.

A file is written aside, synced and renamed, so that a reader sees the old file or the new one, never half of one.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openwork.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


def sha256_of(data: bytes) -> str:
    """The SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def write_atomically(path: str | Path, data: bytes | str) -> None:
    """Write `data` to `path` so that a crash at any moment leaves the old file or the new one, never half of one.

    Raises:
        UserError: the file cannot be written (no space, no rights); nothing is left behind.
    """
    path = Path(path)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with suppress(OSError):  # there may be no such directory
            aside.unlink(missing_ok=True)
        raise UserError(
            f"cannot write {path}: {error.strerror or error}; free some space or choose another place"
        ) from error


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a figure as a PNG, as `write_atomically` does."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_atomically(path, content.getvalue())


@contextmanager
def only_run(directory: Path, mend: str) -> Iterator[None]:
    """Keep a second run out of `directory` until this one ends, be it killed: two would spoil each other's files.

    Where directories cannot be locked (on NFS, on Windows), nothing is kept out.

    Raises:
        UserError: another run goes on there; with the `mend`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if os.name != "posix":
        yield
        return
    import fcntl  # is not there on other systems

    held = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run writes to {directory}; {mend}") from None
        except OSError as error:
            log.info("%s cannot be locked (%s)", directory, error)
        yield
    finally:
        os.close(held)


def read_bytes(path: str | Path, what: str) -> bytes:
    """The bytes of the file `path`, which should hold a `what`; a `UserError` names both if it can't be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read the {what} {path}: {error.strerror or error}; check the path") from error


def read_json(path: str | Path, what: str) -> dict[str, Any]:
    """The JSON object in `path`, which should hold a `what`; a `UserError` if it is not one."""
    data = read_bytes(path, what)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UserError(f"the {what} {path} is damaged ({error}); make it again") from error
    if not isinstance(content, dict):
        raise UserError(f"the {what} {path} holds no JSON object; make it again")
    return content
