"""From the documents of a part to token ids on disk, with what is needed to share, split and order them."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from openwork.corpus.mixture import Part
from openwork.corpus.sources import Document, Skips, open_source
from openwork.corpus.tokenizer import Tokenizer

BATCH_CHARACTERS = 1_000_000
"""Text that is encoded at once."""


class Text(NamedTuple):
    """A document that counts."""

    text: str
    n_bytes: int
    draw: float
    """Its place in the corpus, uniform in [0, 1): a hash of the text and the seed."""


class Feed:
    """The documents of a part that count: those with text that was not there before. They can be read once."""

    def __init__(self, part: Part, seed: int, skips: Skips, seen: set[bytes]) -> None:
        self.part, self.seed, self.skips, self.seen = part, seed, skips, seen
        self.duplicates, self.empty = 0, 0
        self.is_done = False
        """Whether all was read."""
        documents = [open_source(source, seed, skips) for source in part.sources]
        self.ahead: list[Text] = []
        self.rest = self._texts(documents)

    def __iter__(self) -> Iterator[Text]:
        return chain(self.ahead, self.rest)

    def look_ahead(self, n_characters: int) -> list[Text]:
        """The first texts, `n_characters` of them or all there are; reading the feed still gives them."""
        size = sum(len(text.text) for text in self.ahead)
        while size < n_characters and (text := next(self.rest, None)):
            self.ahead.append(text)
            size += len(text.text)
        return self.ahead

    def _texts(self, documents: list[Iterator[Document]]) -> Iterator[Text]:
        for document in chain.from_iterable(documents):
            try:
                data = document.text.encode()
            except UnicodeEncodeError:
                self.skips.note(document.name, "not text: half a surrogate pair")
                continue
            if "\0" in document.text:
                self.skips.note(document.name, "not text: NUL characters")
                continue
            if not document.text.strip():
                self.empty += 1
                continue
            digest = hashlib.sha256(data).digest()
            if digest in self.seen:
                self.duplicates += 1
                continue
            self.seen.add(digest)
            draw = hashlib.sha256(f"{self.seed} ".encode() + digest).digest()
            yield Text(document.text, len(data), (int.from_bytes(draw[:8], "big") >> 11) / 2**53)
        self.is_done = True


@dataclass(frozen=True)
class Encoded:
    """The documents of a part as one file of uint32 ids, each document behind an end-of-text token."""

    name: str
    file: Path
    lengths: NDArray[np.int64]
    """Tokens of each document, its end-of-text token included."""
    n_bytes: NDArray[np.int64]
    draws: NDArray[np.float64]

    @property
    def n_tokens(self) -> int:
        return int(self.lengths.sum())

    def first(self, n_tokens: float) -> Encoded:
        """The first documents only, as many as make `n_tokens` or just more."""
        n = int(np.searchsorted(self.lengths.cumsum(), n_tokens)) + 1
        return replace(self, lengths=self.lengths[:n], n_bytes=self.n_bytes[:n], draws=self.draws[:n])


def encode(feed: Feed, tokenizer: Tokenizer, n_tokens: float, file: Path, report: Callable[[int], None]) -> Encoded:
    """Encode the documents of `feed` into `file` until there are `n_tokens` or it ends; `report` is told the tokens."""
    lengths, n_bytes, draws = array("q"), array("q"), array("d")
    done = 0
    with file.open("wb") as out:
        for batch in _batches(feed):
            for text, ids in zip(batch, tokenizer.encode_many([text.text for text in batch]), strict=True):
                out.write(np.array([tokenizer.end_of_text, *ids], dtype=np.uint32).tobytes())
                lengths.append(len(ids) + 1)
                n_bytes.append(text.n_bytes)
                draws.append(text.draw)
                done += len(ids) + 1
            report(done)
            if done >= n_tokens:
                break
    return Encoded(feed.part.name, file, np.array(lengths), np.array(n_bytes), np.array(draws))


def _batches(feed: Feed) -> Iterator[list[Text]]:
    """The texts of `feed`, each time as many as make `BATCH_CHARACTERS`."""
    batch: list[Text] = []
    size = 0
    for text in feed:
        batch.append(text)
        size += len(text.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
