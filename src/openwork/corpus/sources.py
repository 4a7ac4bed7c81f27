"""Where text comes from: a source is a stream of documents. What cannot be read is passed over, counted and named.

    stdlib                     the standard library of the running interpreter, its tests included
    idioms                     generated little programs, without end
    DIRECTORY, DIRECTORY#.js.ts    source files below it by extension (.py), but for what a .gitignore excludes
    FILE                       one text file
    FILE.jsonl#column          a text column ("text") of JSON lines; also FILE.parquet#column
    hub:OWNER/NAME#column      a dataset of the Hugging Face Hub, its train split, streamed

Files come in an order shuffled by their names, so that any first part of a source is a fair sample of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import sysconfig
import tokenize
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openwork.corpus.idioms import documents as idioms
from openwork.corpus.walk import rules_above, rules_of, walk
from openwork.errors import UserError

EXTENSIONS = (".py",)
PYTHON = (".py", ".pyi", ".pyw")
"""Extensions of files that may declare their encoding (PEP 263)."""
COLUMN = "text"
ROWS = {".jsonl", ".ndjson", ".parquet"}
NAMED = 100
"""How many of the documents that were passed over are named."""
KNOWN = "give stdlib, idioms, a directory, a file, or hub:OWNER/NAME"


@dataclass(frozen=True)
class Document:
    """One text and where it comes from."""

    name: str
    text: str


@dataclass
class Skips:
    """What was passed over: how many, and the first of them with the reason."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def note(self, name: str | Path, reason: object) -> None:
        """Count `name`, which could not be used for `reason`."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(f"{_printable(str(name))}: {reason}")


def is_endless(source: str) -> bool:
    """Whether `source` goes on for ever."""
    return source == "idioms"


def open_source(source: str, seed: int, skips: Skips) -> Iterator[Document]:
    """The documents of `source` (see the module), in an order that is the same on every machine.

    Raises:
        UserError: there is no such source, or it cannot be opened; for a row file or a dataset also while it is read.
    """
    if source == "stdlib":
        return _stdlib(seed, skips)
    if source == "idioms":
        return (Document(f"idioms {i}", text) for i, text in enumerate(idioms(seed)))
    if source.startswith("hub:"):
        return _hub(source.removeprefix("hub:"), skips)
    name, mark, detail = (source, "", "") if is_path(source) else source.rpartition("#")
    path = Path(os.path.expanduser(name or source))
    if not source.strip() or not is_path(str(path)):
        raise UserError(f"there is no corpus source {source!r}; {KNOWN}")
    if path.is_dir():
        path = path.resolve()
        extensions = _extensions(source, detail) if mark else EXTENSIONS
        return _files(walk(path, extensions, rules_above(path), skips.note), path, seed, skips)
    if path.suffix in ROWS:
        rows = _parquet_rows(path, detail or COLUMN) if path.suffix == ".parquet" else _json_rows(path)
        return _texts(rows, detail or COLUMN, path.name, skips)
    if mark:
        raise UserError(f"{name} has no columns for {'#' + detail!r}; only {', '.join(sorted(ROWS))} files have")
    return _files([path], path.parent, seed, skips)


def is_path(source: str) -> bool:
    """Whether `source` is a path that exists, whatever signs it has in it."""
    try:
        return os.path.exists(os.path.expanduser(source))
    except ValueError:  # a NUL in it
        return False


def _extensions(source: str, detail: str) -> tuple[str, ...]:
    """``.js.ts`` as (".js", ".ts")."""
    first, *names = detail.split(".")
    if first or not names or not all(names):
        raise UserError(f"the source {source!r} ends in no extensions; write them like src#.js.ts")
    return tuple(f".{name}" for name in names)


def _stdlib(seed: int, skips: Skips) -> Iterator[Document]:
    root = Path(sysconfig.get_path("stdlib"))
    if not root.is_dir():
        raise UserError(f"this Python has no standard library in files ({root} is missing); use another interpreter")
    installed = rules_of(root, ["site-packages/", "dist-packages/", "__pycache__/"])
    return _files(walk(root, EXTENSIONS, [installed], skips.note), root, seed, skips)


def _files(paths: Iterable[Path], root: Path, seed: int, skips: Skips) -> Iterator[Document]:
    """The text of each file, in the order of a hash of its name below `root`."""
    names = {path.relative_to(root).as_posix(): path for path in paths}
    for name in sorted(names, key=lambda name: (hashlib.sha256(f"{seed} {_printable(name)}".encode()).digest(), name)):
        try:
            yield Document(_printable(name), _read_text(names[name]))
        except OSError as error:
            skips.note(name, error.strerror or error)
        except (UnicodeError, SyntaxError, LookupError, ValueError) as error:
            skips.note(name, f"not text: {' '.join(str(error).split())[:100]}")


def _printable(name: str) -> str:
    """`name` with the bytes of a file name that are no UTF-8 as backslash codes."""
    return name.encode("utf-8", "backslashreplace").decode()


def _read_text(path: Path) -> str:
    """The text of a file with newlines as ``\\n``; Python may declare its encoding (PEP 263), all else is UTF-8."""
    data = path.read_bytes()
    if b"\0" in data:
        raise ValueError("binary, it has NUL bytes")
    encoding = tokenize.detect_encoding(io.BytesIO(data).readline)[0] if path.suffix in PYTHON else "utf-8-sig"
    return data.decode(encoding).replace("\r\n", "\n").replace("\r", "\n")


def _texts(rows: Iterable[tuple[int, Any]], column: str, what: str, skips: Skips) -> Iterator[Document]:
    """The text in `column` of each numbered row. The first row must have it, others are passed over if not."""
    is_first = True
    for number, row in rows:
        name = f"{what}:{number}"
        if not isinstance(row, Mapping):
            skips.note(name, "no JSON object")
            continue
        if is_first and column not in row:
            raise UserError(
                f"{what} has no column {column!r}, it has {', '.join(map(repr, row))}; choose one with {what}#column"
            )
        is_first = False
        text = row.get(column)
        if isinstance(text, str):
            yield Document(name, text)
        else:
            skips.note(name, f"no text in column {column!r}")


def _json_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """Line numbers and values of a file of JSON lines; None for a line that is no JSON."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    value = json.loads(line)
                except (ValueError, RecursionError):
                    value = None
                yield number, value
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}; check the path and its rights") from error


def _parquet_rows(path: Path, column: str) -> Iterator[tuple[int, Any]]:
    """Numbers and values of the rows of a Parquet file, `column` alone where it has it."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"to read {path} install the extra: pip install 'openwork[parquet]'") from error
    number = 0
    try:
        with ParquetFile(path) as file:
            wanted = [column] if column in file.schema_arrow.names else None
            for batch in file.iter_batches(batch_size=1024, columns=wanted):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except (ArrowException, OSError) as error:
        raise UserError(f"cannot read {path} as Parquet ({_one_line(error)}); check the file") from error


def _hub(name: str, skips: Skips) -> Iterator[Document]:
    """The documents of a dataset of the Hub: ``OWNER/NAME`` or ``OWNER/NAME#column``."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"to read hub:{name} install the extra: pip install 'openwork[hub]'") from error
    name, _, column = name.partition("#")

    def rows() -> Iterator[tuple[int, Any]]:
        try:
            yield from enumerate(datasets.load_dataset(name, split="train", streaming=True), 1)
        except Exception as error:  # the library raises many kinds, offline and otherwise
            mend = "check the name and the connection, or use a local file"
            raise UserError(f"cannot stream hub:{name} ({_one_line(error)}); {mend}") from error

    return _texts(rows(), column or COLUMN, f"hub:{name}", skips)


def _one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
