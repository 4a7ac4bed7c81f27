"""Token shards: flat files of token ids, memory-mapped, and the manifest that says what they are.

    CORPUS/manifest.json, tokenizer.json, train-00000.bin, ..., validation-00000.bin, ...

The ids of all documents of a split stand one after another, each document behind an end-of-text token.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from openwork.artifacts import FORMAT_VERSION
from openwork.corpus.tokenizer import Tokenizer
from openwork.errors import UserError
from openwork.files import read_json, sha256_of, write_atomically

Split = Literal["train", "validation"]
SHARD_TOKENS = 1 << 26
"""Tokens per shard at most."""
MEND = "delete the directory and build the corpus again"


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
class PartManifest:
    """What one part of a mixture gave."""

    source: str
    documents: int
    tokens: int


@dataclass(frozen=True)
class Manifest:
    """What a corpus was made from and what it holds."""

    source: str
    seed: int
    validation_fraction: float
    max_tokens: int | None
    d_vocab: int
    """Vocabulary that was asked for; a tokenizer learnt from little text can have less."""
    python: str
    """Version of the interpreter whose standard library was read, empty where none was."""
    tokenizer_hash: str
    tokenizer_given: bool
    """Whether the tokenizer was given, not trained."""
    dtype: str
    """Type of the ids on disk: uint16 or uint32, little-endian."""
    train: SplitManifest
    validation: SplitManifest
    parts: tuple[PartManifest, ...]
    empty: int = 0
    """Documents left out because they have no text."""
    duplicates: int = 0
    """Documents left out because their text had been there before."""
    skipped: int = 0
    skipped_names: tuple[str, ...] = ()
    """The first hundred that could not be read, each with the reason."""

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the hashes of tokenizer and shards: the identity of the corpus, wherever its text came from."""
        shards = [[shard.sha256 for shard in split.shards] for split in (self.train, self.validation)]
        return sha256_of(json.dumps([self.tokenizer_hash, self.dtype, shards]).encode())

    def summary(self) -> dict[str, Any]:
        """The counts, flat, for a report."""
        counts = {"source": self.source, "d_vocab": self.d_vocab}
        for split in ("train", "validation"):
            part: SplitManifest = getattr(self, split)
            counts |= {f"{split}_{name}": getattr(part, name) for name in ("documents", "bytes", "tokens")}
        return {
            **counts,
            "duplicates": self.duplicates,
            "empty": self.empty,
            "skipped": self.skipped,
            "skipped_names": list(self.skipped_names),
        }


class ShardWriter:
    """Writes the documents of one split into `directory` as shards of at most `shard_tokens`."""

    def __init__(self, directory: Path, split: Split, dtype: str, shard_tokens: int = SHARD_TOKENS) -> None:
        self.directory, self.split, self.shard_tokens = directory, split, shard_tokens
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.documents, self.bytes, self.tokens = 0, 0, 0
        self.shards: list[Shard] = []
        self.file: BinaryIO | None = None
        self.digest, self.in_shard = hashlib.sha256(), 0

    def add(self, ids: NDArray[Any], n_bytes: int) -> None:
        """Add one document of `n_bytes` of text; `ids` begin with the end-of-text token."""
        self.documents += 1
        self.bytes += n_bytes
        self.tokens += len(ids)
        while len(ids):
            self.file = self.file or (self.directory / self._name()).open("wb")
            piece, ids = np.split(ids, [self.shard_tokens - self.in_shard])
            data = piece.astype(self.dtype).tobytes()
            self.file.write(data)
            self.digest.update(data)
            self.in_shard += len(piece)
            if self.in_shard == self.shard_tokens:
                self._finish()

    def close(self) -> SplitManifest:
        """Finish the last shard; returns what the split holds."""
        if self.file:
            self._finish()
        return SplitManifest(self.documents, self.bytes, self.tokens, tuple(self.shards))

    def _name(self) -> str:
        return f"{self.split}-{len(self.shards):05d}.bin"

    def _finish(self) -> None:
        assert self.file is not None
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        self.shards.append(Shard(self._name(), self.in_shard, self.digest.hexdigest()))
        self.file, self.digest, self.in_shard = None, hashlib.sha256(), 0


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
    path = directory / shard.file
    size = shard.tokens * dtype.itemsize
    if not path.is_file() or path.stat().st_size != size:
        found = f"{path.stat().st_size} bytes" if path.is_file() else "missing"
        raise UserError(f"the shard {path} should have {size} bytes, but is {found}; {MEND}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
            raise UserError(f"the shard {path} was altered: its checksum differs from the manifest's; {MEND}")
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

        A function of its arguments alone (the generator counts from seed, split and step), so that any step can be
        drawn again.

        Raises:
            UserError: the split is shorter than the context.
        """
        tokens: Tokens = getattr(self, split)
        if not len(tokens):
            raise UserError(
                f"{self.path} has no {split} tokens; build it from more than one document, with --validation-fraction "
                "above 0"
            )
        if len(tokens) < n_ctx + 1:
            raise UserError(
                f"the context of {n_ctx} tokens is longer than the {len(tokens)} {split} tokens of {self.path}; "
                "lower model.n_ctx or build a larger corpus"
            )
        starts = _draw(seed, split, step, batch_size, len(tokens) - n_ctx)
        return torch.from_numpy(np.stack([tokens.window(start, n_ctx + 1) for start in starts]))


def _draw(seed: int, split: Split, step: int, n: int, below: int) -> list[int]:
    """`n` numbers from 0 to `below` - 1: the raw words of a Philox counter, which no version of numpy may change."""
    key = [seed % 2**64, int(split == "validation")]
    words = np.random.Philox(key=np.array(key, dtype=np.uint64), counter=[0, 0, step, 0]).random_raw(n)
    return [int(word) % below for word in words]


def save_manifest(directory: Path, manifest: Manifest) -> None:
    """Write manifest.json."""
    content = {"kind": "corpus", "format_version": FORMAT_VERSION, **asdict(manifest)}
    content["sha256"] = _manifest_hash(content)
    write_atomically(directory / "manifest.json", json.dumps(content, indent=2) + "\n")


def open_corpus(path: str | Path) -> Corpus:
    """The corpus in the directory `path`; sizes and hashes of all its files are checked.

    Raises:
        UserError: no corpus there, or a file that is missing, truncated, altered or of another corpus.
    """
    path = Path(path)
    if not (path / "manifest.json").is_file():
        raise UserError(f"{path} is no corpus (it has no manifest.json); give a directory that `openwork corpus` wrote")
    manifest = _load_manifest(path / "manifest.json")
    tokenizer = Tokenizer.load(path / "tokenizer.json")
    if tokenizer.hash != manifest.tokenizer_hash:
        raise UserError(f"{path}/tokenizer.json is not the tokenizer of this corpus; put it back, or {MEND}")
    return Corpus(path, manifest, tokenizer, Tokens(path, manifest, "train"), Tokens(path, manifest, "validation"))


def _load_manifest(path: Path) -> Manifest:
    content = read_json(path, "corpus manifest")
    try:
        if content.pop("kind") != "corpus":
            raise UserError(f"{path} is no corpus manifest; give a directory that `openwork corpus` wrote")
        if content["format_version"] > FORMAT_VERSION:
            raise UserError(f"{path} has a format newer than {FORMAT_VERSION}; update openwork")
        if content.pop("sha256") != _manifest_hash({"kind": "corpus", **content}):
            raise UserError(f"the corpus manifest {path} was altered: its checksum differs; {MEND}")
        del content["format_version"]
        if content["dtype"] not in ("uint16", "uint32"):
            raise UserError(f"the corpus manifest {path} has dtype {content['dtype']!r}, not uint16 or uint32; {MEND}")
        splits = {split: _split_manifest(content[split]) for split in ("train", "validation")}
        parts = tuple(PartManifest(**part) for part in content["parts"])
        return Manifest(**{**content, **splits, "parts": parts, "skipped_names": tuple(content["skipped_names"])})
    except (TypeError, KeyError) as error:
        raise UserError(f"the corpus manifest {path} lacks something ({error}); {MEND}") from error


def _split_manifest(content: dict[str, Any]) -> SplitManifest:
    return SplitManifest(**{**content, "shards": tuple(Shard(**shard) for shard in content["shards"])})


def _manifest_hash(content: dict[str, Any]) -> str:
    return sha256_of(json.dumps({k: v for k, v in content.items() if k != "sha256"}, sort_keys=True).encode())
