"""Where text comes from. A source is a stream of documents; what cannot be read is noted and passed over.

stdlib                 the standard library of the running interpreter
idioms                 generated little programs, without end
DIRECTORY or FILE      source files, by extension; .gitignore is respected
FILE.jsonl#column      a text column of JSON lines; also FILE.parquet#column
hub:OWNER/NAME#column  a dataset of the Hugging Face Hub, streamed
"""

from __future__ import annotations

import json
import sysconfig
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from openwork.corpus.idioms import documents as idioms
from openwork.errors import UserError

EXTENSIONS = (".py",)
COLUMN = "text"


@dataclass(frozen=True)
class Document:
    """One text and where it comes from."""

    name: str
    text: str


@dataclass
class Skips:
    """What was passed over, by name, with the reason."""

    names: list[tuple[str, str]] = field(default_factory=list)

    def note(self, name: str, reason: str) -> None:
        self.names.append((name, reason))


def open_source(source: str, seed: int, skips: Skips) -> Iterator[Document]:
    """The documents of `source` (see the module), in an order that is the same on every machine.

    Raises:
        UserError: there is no such source, or it cannot be opened.
    """
    if source == "stdlib":
        root = Path(sysconfig.get_path("stdlib"))
        return from_directory(root, skips, ignored=GitIgnoreSpec.from_lines(["site-packages/", "dist-packages/"]))
    if source == "idioms":
        return (Document(f"idioms-{i}", text) for i, text in enumerate(idioms(seed)))
    if source.startswith("hub:"):
        return from_hub(source.removeprefix("hub:"))
    name, _, column = source.partition("#")
    path = Path(name).expanduser()
    if not path.exists():
        known = "give a directory, a file, stdlib, idioms or hub:OWNER/NAME"
        raise UserError(f"there is no corpus source {source!r}; {known}")
    if path.suffix in (".jsonl", ".parquet"):
        return _COLUMNS[path.suffix](path, column or COLUMN, skips)
    return from_directory(path, skips) if path.is_dir() else iter(_file_documents([path], path.parent, skips))


def from_directory(root: Path, skips: Skips, ignored: GitIgnoreSpec | None = None) -> Iterator[Document]:
    """The source files below `root`, in the order of their paths, but for what a .gitignore there excludes."""
    return _file_documents(_walk(root, [(root, ignored)] if ignored else [], skips), root, skips)


def _walk(directory: Path, rules: list[tuple[Path, GitIgnoreSpec]], skips: Skips) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir(), key=lambda path: path.name)
    except OSError as error:
        skips.note(str(directory), error.strerror or "unreadable")
        return
    if (directory / ".gitignore").is_file():
        lines = (directory / ".gitignore").read_text(encoding="utf-8", errors="replace").splitlines()
        rules = [*rules, (directory, GitIgnoreSpec.from_lines(lines))]
    for path in entries:
        is_directory = path.is_dir()
        if path.name == ".git" or (path.is_symlink() and is_directory) or _ignored(path, is_directory, rules):
            continue
        if is_directory:
            yield from _walk(path, rules, skips)
        elif path.suffix in EXTENSIONS:
            yield path


def _ignored(path: Path, is_directory: bool, rules: list[tuple[Path, GitIgnoreSpec]]) -> bool:
    """Whether the innermost .gitignore that says something of `path` excludes it."""
    for base, spec in reversed(rules):
        verdict = spec.check_file(path.relative_to(base).as_posix() + "/" * is_directory).include
        if verdict is not None:
            return verdict
    return False


def _file_documents(paths: Iterator[Path] | list[Path], root: Path, skips: Skips) -> Iterator[Document]:
    for path in paths:
        name = path.relative_to(root).as_posix()
        try:
            if b"\0" in path.read_bytes()[:8192]:
                skips.note(name, "binary")
                continue
            yield Document(name, _decode(path))
        except (OSError, UnicodeError, SyntaxError, LookupError) as error:
            reason = error.strerror if isinstance(error, OSError) else "wrongly encoded"
            skips.note(name, reason or "unreadable")


def _decode(path: Path) -> str:
    """The text of a file; a Python file may declare its encoding (PEP 263), all others are UTF-8."""
    if path.suffix == ".py":
        with tokenize.open(path) as file:
            return file.read()
    return path.read_text(encoding="utf-8")


def from_jsonl(path: Path, column: str, skips: Skips) -> Iterator[Document]:
    """The texts in `column` of JSON lines; lines that are no object with that text are noted and passed over."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            for number, line in enumerate(file, 1):
                try:
                    text = json.loads(line)[column]
                except (ValueError, KeyError, TypeError):
                    text = None
                if isinstance(text, str):
                    yield Document(f"{path.name}:{number}", text)
                elif line.strip():
                    skips.note(f"{path.name}:{number}", f"no text in column {column!r}")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check the path and its rights") from error


def from_parquet(path: Path, column: str, skips: Skips) -> Iterator[Document]:
    """The texts in `column` of a Parquet file, row group by row group."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise UserError(f"to read {path} install the extra: pip install 'openwork[parquet]'") from error
    try:
        file = ParquetFile(path)
        if column not in file.schema_arrow.names:
            raise UserError(f"{path} has no column {column!r}; choose one of {', '.join(file.schema_arrow.names)}")
        rows = (row for batch in file.iter_batches(columns=[column]) for row in batch.column(0).to_pylist())
        for number, text in enumerate(rows, 1):
            if isinstance(text, str):
                yield Document(f"{path.name}:{number}", text)
            else:
                skips.note(f"{path.name}:{number}", f"no text in column {column!r}")
    except (ArrowException, OSError) as error:
        raise UserError(
            f"cannot read {path} as Parquet ({' '.join(str(error).split())[:200]}); check the file"
        ) from error


def from_hub(name: str) -> Iterator[Document]:
    """The texts of a dataset of the Hugging Face Hub, streamed: ``OWNER/NAME`` or ``OWNER/NAME#column``."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(f"to read hub:{name} install the extra: pip install 'openwork[hub]'") from error
    name, _, column = name.partition("#")
    try:
        rows: Any = datasets.load_dataset(name, split="train", streaming=True)
        for number, row in enumerate(rows, 1):
            if isinstance(row.get(column or COLUMN), str):
                yield Document(f"{name}:{number}", row[column or COLUMN])
    except Exception as error:  # the library raises many kinds, offline and otherwise
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"cannot stream hub:{name} ({reason}); check the name and the connection, or use a local file"
        ) from error


_COLUMNS: dict[str, Callable[[Path, str, Skips], Iterator[Document]]] = {".jsonl": from_jsonl, ".parquet": from_parquet}
