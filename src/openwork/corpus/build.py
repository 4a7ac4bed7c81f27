"""Text to token shards: documents -> duplicates dropped -> tokenizer -> ids -> order and split -> shards.

Each document has a number drawn from its text and the seed. The documents with the lowest numbers are the validation
split, and both splits stand in the order of their numbers: so a document is always on the same side, and the sources
of a mixture are mixed throughout.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from openwork.corpus.encoding import Encoded, Feed, encode
from openwork.corpus.mixture import Part, parse_mixture
from openwork.corpus.shards import (
    Corpus,
    Manifest,
    PartManifest,
    ShardWriter,
    SplitManifest,
    open_corpus,
    save_manifest,
)
from openwork.corpus.sources import Skips, is_endless
from openwork.corpus.tokenizer import Tokenizer
from openwork.errors import UserError
from openwork.files import only_run

D_VOCAB = 2048
"""Size of the vocabulary that is trained where none is asked for."""
Progress = Callable[[str, int, int | None], None]
SAMPLE_CHARACTERS = 8_000_000
"""Text that a tokenizer is trained on at most, the first of each source in its share."""
CHARACTERS_PER_TOKEN = 8
"""More than a token has on average in any language of a sensible vocabulary: bounds what `max_tokens` can need."""


@dataclass(frozen=True)
class Request:
    """What makes a corpus what it is."""

    source: str
    d_vocab: int
    validation_fraction: float
    seed: int
    max_tokens: int | None
    python: str
    """Version of the interpreter whose library is read, empty where none is."""

    def __post_init__(self) -> None:
        if not 0 <= self.validation_fraction < 1:
            raise UserError(f"validation_fraction is {self.validation_fraction}; it must be at least 0 and below 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; it must be at least 1")


def build_corpus(
    source: str,
    out: str | Path,
    *,
    d_vocab: int | None = None,
    tokenizer: str | Path | None = None,
    validation_fraction: float = 0.05,
    seed: int = 0,
    max_tokens: int | None = None,
    overwrite: bool = False,
    progress: Progress = lambda stage, done, total: None,
) -> Corpus:
    """Build the corpus of `source` in the directory `out`, or open the one there, if built with the same settings.

    `source` is one of `openwork.corpus.sources`, or a mixture such as ``stdlib:0.5,idioms:0.5`` with shares of tokens:
    as long as its shortest part allows. The same text and settings give the same bytes. The text behind a corpus that
    is there is not read again: `overwrite` builds it anew. `progress` is told the stage, how much is done and, where
    it is known, of how much: characters in the stage "tokenizer", tokens in "encode" and "write".

    Raises:
        UserError: no such source, nothing readable in it, settings that make no sense, another corpus or other files
            in `out`, or no space. Nothing half-written stays.
    """
    out = Path(out)
    if tokenizer is not None and d_vocab is not None:
        raise UserError(f"the vocabulary is that of {tokenizer}; leave d_vocab {d_vocab} out")
    given = Tokenizer.load(tokenizer) if tokenizer is not None else None
    wanted = given.d_vocab if given else D_VOCAB if d_vocab is None else d_vocab
    parts = parse_mixture(source)
    python = platform.python_version() if any("stdlib" in part.sources for part in parts) else ""
    if max_tokens is None and all(is_endless(name) for part in parts for name in part.sources):
        raise UserError(f"the source {source!r} has no end; give max_tokens, or mix it with one that ends")
    request = Request(source, wanted, validation_fraction, seed, max_tokens, python)
    _restore(out)
    if (out / "manifest.json").is_file() and not overwrite:
        return _reuse(out, request, given)
    with _aside(out) as aside:
        save_manifest(aside, _build(aside, request, parts, given, progress))
    return open_corpus(out)


def _reuse(out: Path, request: Request, given: Tokenizer | None) -> Corpus:
    corpus = open_corpus(out)
    wanted = {**asdict(request), "tokenizer_given": given is not None}
    if given:
        wanted["tokenizer_hash"] = given.hash
    for name, value in wanted.items():
        if (found := getattr(corpus.manifest, name)) != value:
            raise UserError(
                f"{out} holds a corpus with {name} {found!r}, not {value!r}; choose another place, or delete it"
            )
    return corpus


@contextmanager
def _aside(out: Path) -> Iterator[Path]:
    """A directory beside `out`, which takes the place of `out` in the end and is gone if anything fails before."""
    place = out.resolve()
    if out.exists() and not (place / "manifest.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there and is no corpus; choose another directory for the corpus")
    aside = place.with_name(f".{place.name}.part")
    try:
        with only_run(aside, f"wait for the corpus {out}, or choose another directory"):
            try:
                for left in aside.iterdir():  # of a build that was killed
                    left.unlink()
                yield aside
                if place.exists():
                    place.replace(_old(place))
                aside.replace(place)
            finally:
                _restore(place)
                shutil.rmtree(aside, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot write the corpus {out}: {reason}; free some space or choose another place") from error


def _old(place: Path) -> Path:
    """Where the corpus of `place` is while another takes its place."""
    return place.with_name(f".{place.name}.old")


def _restore(out: Path) -> None:
    """Put a corpus that was moved aside back if none has taken its place; remove it otherwise."""
    place = out.resolve()
    old = _old(place)
    if old.exists() and not place.exists():
        old.replace(place)
    shutil.rmtree(old, ignore_errors=True)


def _build(
    aside: Path, request: Request, parts: tuple[Part, ...], given: Tokenizer | None, progress: Progress
) -> Manifest:
    """Write shards and tokenizer into the directory `aside`; returns the manifest."""
    skips = Skips()
    seen: set[bytes] = set()
    feeds = [Feed(part, request.seed, skips, seen) for part in parts]
    tokenizer = given or _train(feeds, request, progress)
    encoded = _encode_parts(aside, feeds, tokenizer, request, progress)
    tokenizer.save(aside / "tokenizer.json")
    dtype = "uint16" if tokenizer.d_vocab <= 1 << 16 else "uint32"
    train, validation = _write(aside, encoded, request.validation_fraction, dtype, progress)
    for part in encoded:
        part.file.unlink()
    return Manifest(
        **asdict(request),
        tokenizer_hash=tokenizer.hash,
        tokenizer_given=given is not None,
        dtype=dtype,
        train=train,
        validation=validation,
        parts=tuple(PartManifest(part.name, len(part.lengths), part.n_tokens) for part in encoded),
        empty=sum(feed.empty for feed in feeds),
        duplicates=sum(feed.duplicates for feed in feeds),
        skipped=skips.count,
        skipped_names=tuple(skips.first),
    )


def _train(feeds: list[Feed], request: Request, progress: Progress) -> Tokenizer:
    """A tokenizer learnt from the first texts of each feed that are not for validation."""
    most = SAMPLE_CHARACTERS
    if request.max_tokens is not None:
        most = min(most, CHARACTERS_PER_TOKEN * request.max_tokens)
    sample = []
    for feed in feeds:
        sample += feed.look_ahead(round(most * feed.part.share))
        progress("tokenizer", sum(len(document.text) for document in sample), None)
    fraction = request.validation_fraction
    if fraction > 0 and len(sample) > 1:  # the first by its draw is for validation in any case, see `_write`
        fraction = max(fraction, sorted(document.draw for document in sample)[1])
    texts = [document.text for document in sample if document.draw >= fraction]
    return Tokenizer.train(texts or [document.text for document in sample], request.d_vocab)


def _encode_parts(
    aside: Path, feeds: list[Feed], tokenizer: Tokenizer, request: Request, progress: Progress
) -> list[Encoded]:
    """Encode each feed up to its share of a corpus as large as the shortest feed, or `max_tokens`, allows."""
    total = float("inf") if request.max_tokens is None else request.max_tokens
    encoded: list[Encoded] = []
    for i, feed in enumerate(feeds):
        before = sum(part.n_tokens for part in encoded)

        def report(tokens: int, before: int = before, total: float = total) -> None:
            done = min(before + tokens, total)  # the last batch goes beyond
            progress("encode", round(done), None if total == float("inf") else round(total))

        part = encode(feed, tokenizer, total * feed.part.share, aside / f"part-{i}.ids", report)
        if not len(part.lengths):
            raise UserError(f"the source {part.name!r} has no text{_why(feed)}; check the path and the extension")
        encoded.append(part)
        if feed.is_done:
            total = min(total, part.n_tokens / feed.part.share)
    return [part.first(total * feed.part.share) for part, feed in zip(encoded, feeds, strict=True)]


def _why(feed: Feed) -> str:
    """What kept `feed` empty, where something did."""
    reasons = [f"{count} {what}" for what, count in (("empty", feed.empty), ("duplicates", feed.duplicates)) if count]
    if feed.skips.count:
        reasons.append(f"{feed.skips.count} passed over, first {feed.skips.first[0]}")
    return f" ({', '.join(reasons)})" if reasons else ""


def _write(
    aside: Path, encoded: list[Encoded], validation_fraction: float, dtype: str, progress: Progress
) -> tuple[SplitManifest, SplitManifest]:
    """Write the documents of all parts in the order of their draws, the first as validation; returns both splits.

    There is at least one document on either side, if there are two and validation is wanted at all.
    """
    draws = np.concatenate([part.draws for part in encoded])
    part_of = np.repeat(np.arange(len(encoded)), [len(part.draws) for part in encoded])
    lengths = np.concatenate([part.lengths for part in encoded])
    starts = np.concatenate([part.lengths.cumsum() - part.lengths for part in encoded])
    n_bytes = np.concatenate([part.n_bytes for part in encoded])
    ids = [np.memmap(part.file, dtype=np.uint32, mode="r") for part in encoded]
    n_validation = int((draws < validation_fraction).sum())
    if validation_fraction > 0:
        n_validation = min(max(n_validation, 1), len(draws) - 1)
    writers = [ShardWriter(aside, split, dtype) for split in ("train", "validation")]
    done, total = 0, int(lengths.sum())
    for rank, i in enumerate(np.argsort(draws, kind="stable")):
        start, length = int(starts[i]), int(lengths[i])
        writers[rank < n_validation].add(ids[part_of[i]][start : start + length], int(n_bytes[i]))
        done += length
        if rank % 1000 == 0 or done == total:
            progress("write", done, total)
    return writers[0].close(), writers[1].close()
