"""Token shards: flat files of token ids, memory-mapped, and the manifest that says what they are.

    CORPUS/manifest.json, tokenizer.json, train-00000.bin, ..., validation-00000.bin, ...

The ids of all documents of a split stand one after another, each document behind an end-of-text token.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from openwork.artifacts import FORMAT_VERSION, read_json, sha256_of, write_atomically
from openwork.corpus.tokenizer import Tokenizer
from openwork.errors import UserError

Split = Literal["train", "validation"]
SHARD_TOKENS = 1 << 26
"""Tokens per shard at most."""


@dataclass(frozen=True)
class Shard:
    """One file of token ids."""

    file: str
    tokens: int
    sha256: str


@dataclass(frozen=True)
class SplitManifest:
    """What a split holds."""

    documents: int = 0
    bytes: int = 0
    tokens: int = 0
    shards: tuple[Shard, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What a corpus was made from and what it holds."""

    source: str
    seed: int
    validation_fraction: float
    max_tokens: int | None
    d_vocab: int
    """Vocabulary that was asked for; a tokenizer learnt from little text can have less."""
    tokenizer_hash: str
    dtype: str
    """Type of the ids on disk: uint16 or uint32, little-endian."""
    train: SplitManifest
    validation: SplitManifest
    duplicates: int = 0
    """Documents left out because their text had been there before."""
    skipped: int = 0
    skipped_names: tuple[str, ...] = ()
    """The first hundred that could not be read, each with the reason."""

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the manifest, which has the hashes of shards and tokenizer: the identity of the corpus."""
        return sha256_of(json.dumps(asdict(self), sort_keys=True).encode())

    def summary(self) -> dict[str, Any]:
        """The counts, flat, for a report."""
        counts = {"source": self.source, "d_vocab": self.d_vocab}
        for split in ("train", "validation"):
            part: SplitManifest = getattr(self, split)
            counts |= {f"{split}_{name}": getattr(part, name) for name in ("documents", "bytes", "tokens")}
        return {
            **counts,
            "duplicates": self.duplicates,
            "skipped": self.skipped,
            "skipped_names": list(self.skipped_names),
        }


class ShardWriter:
    """Collects the ids of one split and writes them as shards into `directory`."""

    def __init__(self, directory: Path, split: Split, dtype: str) -> None:
        self.directory, self.split, self.dtype = directory, split, np.dtype(dtype).newbyteorder("<")
        self.buffer: list[NDArray[Any]] = []
        self.buffered, self.documents, self.bytes, self.tokens = 0, 0, 0, 0
        self.shards: list[Shard] = []

    def add(self, ids: list[int], n_bytes: int, end_of_text: int) -> None:
        """Add one document, behind an end-of-text token."""
        self.buffer.append(np.array([end_of_text, *ids], dtype=self.dtype))
        self.buffered += len(ids) + 1
        self.documents += 1
        self.bytes += n_bytes
        self.tokens += len(ids) + 1
        if self.buffered >= SHARD_TOKENS:
            self._flush()

    def close(self) -> SplitManifest:
        """Write what is left; returns what the split holds."""
        if self.buffered:
            self._flush()
        return SplitManifest(self.documents, self.bytes, self.tokens, tuple(self.shards))

    def _flush(self) -> None:
        ids = np.concatenate(self.buffer)
        data, name = ids.tobytes(), f"{self.split}-{len(self.shards):05d}.bin"
        write_atomically(self.directory / name, data)
        self.shards.append(Shard(name, len(ids), sha256_of(data)))
        self.buffer, self.buffered = [], 0


class Tokens:
    """The ids of one split, memory-mapped, as one long sequence."""

    def __init__(self, directory: Path, manifest: Manifest, split: Split) -> None:
        dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self.parts = [_open_shard(directory, shard, dtype) for shard in getattr(manifest, split).shards]
        self.starts = np.cumsum([0, *(len(part) for part in self.parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def window(self, start: int, length: int) -> NDArray[np.int64]:
        """The `length` ids from `start` on, int64, across shards where need be."""
        pieces = []
        part = int(np.searchsorted(self.starts, start, side="right")) - 1
        while length > 0:
            offset = start - int(self.starts[part])
            piece = self.parts[part][offset : offset + length]
            pieces.append(piece)
            start, length, part = start + len(piece), length - len(piece), part + 1
        return np.concatenate(pieces).astype(np.int64)


def _open_shard(directory: Path, shard: Shard, dtype: np.dtype[Any]) -> NDArray[Any]:
    path, mend = directory / shard.file, "build the corpus again"
    size = shard.tokens * dtype.itemsize
    if not path.is_file() or path.stat().st_size != size:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
        raise UserError(f"the shard {path} should have {size} bytes, but is {found}; {mend}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            raise UserError(f"the shard {path} was altered: its checksum differs from the manifest's; {mend}")
    return np.memmap(path, dtype=dtype, mode="r")


@dataclass(frozen=True)
class Corpus:
    """A corpus on disk: tokens for training and validation, and their tokenizer."""

    path: Path
    manifest: Manifest
    tokenizer: Tokenizer = field(repr=False)
    train: Tokens = field(repr=False)
    validation: Tokens = field(repr=False)

    def batch(self, split: Split, step: int, batch_size: int, n_ctx: int, seed: int) -> torch.Tensor:
        """`batch_size` windows of n_ctx + 1 ids at random places, (batch_size, n_ctx + 1) int64.

        A function of its arguments alone (the generator counts from seed, split and step), so any step can be drawn again.

        Raises:
            UserError: the split is shorter than the context.
        """
        tokens: Tokens = getattr(self, split)
        if len(tokens) < n_ctx + 1:
            raise UserError(
                f"the context of {n_ctx} tokens is longer than the {len(tokens)} {split} tokens of {self.path}; "
                "lower model.n_ctx or build a larger corpus"
            )
        generator = np.random.Generator(np.random.Philox(key=[seed, 2 * step + (split == "validation")]))
        starts = generator.integers(0, len(tokens) - n_ctx, size=batch_size)
        return torch.from_numpy(np.stack([tokens.window(int(start), n_ctx + 1) for start in starts]))


def save_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json."""
    content = {"kind": "corpus", "format_version": FORMAT_VERSION, **asdict(manifest)}
    write_atomically(directory / "manifest.json", json.dumps(content, indent=2) + "\n")


def open_corpus(path: str | Path) -> Corpus:
    """The corpus in the directory `path`; sizes and hashes of all its files are checked.

    Raises:
        UserError: no corpus there, or a file that is missing, truncated, altered or of another corpus.
    """
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise UserError(f"{path} is no corpus (it has no manifest.json); give a directory that `openwork corpus` wrote")
    content = read_json(path / "manifest.json", "manifest")
    if content.pop("kind", None) != "corpus" or content.pop("format_version", 0) > FORMAT_VERSION:
        raise UserError(f"{path}/manifest.json is no manifest of format {FORMAT_VERSION} or older; update openwork")
    try:
        splits = {split: _split_manifest(content[split]) for split in ("train", "validation")}
        names = tuple(content["skipped_names"])
        manifest = Manifest(**{**content, **splits, "skipped_names": names})
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}/manifest.json lacks something ({error}); build the corpus again") from error
    tokenizer = Tokenizer.load(path / "tokenizer.json")
    if tokenizer.hash != manifest.tokenizer_hash:
        raise UserError(f"{path}/tokenizer.json is not the tokenizer of this corpus; build the corpus again")
    return Corpus(path, manifest, tokenizer, Tokens(path, manifest, "train"), Tokens(path, manifest, "validation"))


def _split_manifest(content: dict[str, Any]) -> SplitManifest:
    return SplitManifest(**{**content, "shards": tuple(Shard(**shard) for shard in content["shards"])})
