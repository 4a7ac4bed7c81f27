"""Text to token shards: documents -> duplicates dropped -> split -> tokenizer -> ids -> shards and manifest."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path

from openwork.corpus.shards import Corpus, Manifest, ShardWriter, Split, open_corpus, save_manifest
from openwork.corpus.sources import Document, Skips, open_source
from openwork.corpus.tokenizer import Tokenizer
from openwork.errors import UserError

Progress = Callable[[str, int, int | None], None]
SAMPLE_BYTES = 48_000_000
"""Text that a tokenizer is trained on at most: the first of the training split."""
BATCH = 256
"""Documents that are encoded at once."""
ENDLESS = ("idioms",)
SKIPPED_NAMES = 100


@dataclass(frozen=True)
class Request:
    """What makes a corpus what it is."""

    source: str
    d_vocab: int
    validation_fraction: float
    seed: int
    max_tokens: int | None

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UserError(f"validation_fraction is {self.validation_fraction}; it must lie between 0 and 1")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise UserError(f"max_tokens is {self.max_tokens}; it must be at least 1")


def build_corpus(
    source: str,
    out: str | Path,
    *,
    d_vocab: int = 2048,
    tokenizer: str | Path | None = None,
    validation_fraction: float = 0.05,
    seed: int = 0,
    max_tokens: int | None = None,
    progress: Progress = lambda stage, done, total: None,
) -> Corpus:
    """Build the corpus of `source` (see `openwork.corpus.sources`; mixtures as ``stdlib:0.5,idioms:0.5``) in `out`.

    The same arguments give the same bytes. A corpus that is there already and was built so is opened instead. Documents go to
    validation by a hash of their text; the tokenizer, unless one is given, is trained on the training split.

    Raises:
        UserError: no such source, nothing readable in it, settings that make no sense, or another corpus in `out`.
    """
    out = Path(out)
    given = Tokenizer.load(tokenizer) if tokenizer is not None else None
    request = Request(source, given.d_vocab if given else d_vocab, validation_fraction, seed, max_tokens)
    if (out / "manifest.json").is_file():
        return _reuse(out, request, given)
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} holds other files and no corpus; choose another --out")
    aside = out.with_name(f".{out.name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        save_manifest(aside, _write(aside, request, given, progress))
        aside.replace(out)
    except OSError as error:
        raise UserError(
            f"cannot write the corpus {out}: {error.strerror}; free some space or choose another place"
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return open_corpus(out)


def _reuse(out: Path, request: Request, given: Tokenizer | None) -> Corpus:
    corpus = open_corpus(out)
    wanted = {**asdict(request), **({"tokenizer_hash": given.hash} if given else {})}
    for name, value in wanted.items():
        if getattr(corpus.manifest, name) != value:
            raise UserError(
                f"{out} holds a corpus with {name} {getattr(corpus.manifest, name)!r}, not {value!r}; "
                "choose another --out, or delete it"
            )
    return corpus


class Intake:
    """The documents that count: with text, not seen before, each with its split."""

    def __init__(self, request: Request) -> None:
        self.request, self.skips, self.duplicates = request, Skips(), 0

    def __iter__(self) -> Iterator[tuple[Split, str]]:
        seen: set[bytes] = set()
        for document in mixture(self.request, self.skips):
            if not document.text.strip():
                self.skips.note(document.name, "empty")
                continue
            digest = hashlib.sha256(document.text.encode("utf-8", "surrogatepass")).digest()
            if digest in seen:
                self.duplicates += 1
                continue
            seen.add(digest)
            draw = hashlib.sha256(f"{self.request.seed}:".encode() + digest).digest()
            is_validation = int.from_bytes(draw[:8], "big") < self.request.validation_fraction * 2**64
            yield ("validation" if is_validation else "train"), document.text


def mixture(request: Request, skips: Skips) -> Iterator[Document]:
    """The documents of a source; of a mixture ``a:0.5,b:0.5`` those of each in turn, so that its share of the text is kept.

    It ends when the first of its sources does, so that the shares hold to the end; generated sources have no end.
    """
    parts = _parse_mixture(request.source)
    if request.max_tokens is None and all(name in ENDLESS for name, _ in parts):
        raise UserError(f"the source {request.source!r} has no end; give --max-tokens, or mix it with one that ends")
    streams = [open_source(name, request.seed, skips) for name, _ in parts]
    taken = [0.0] * len(parts)
    while True:
        i = min(range(len(parts)), key=lambda j: taken[j] / parts[j][1])
        document = next(streams[i], None)
        if document is None:
            return
        taken[i] += max(1, len(document.text))
        yield document


def _parse_mixture(source: str) -> list[tuple[str, float]]:
    """Names and weights; a source without a weight is a mixture of one."""
    parts = []
    for part in source.split(","):
        name, colon, weight = part.rpartition(":")
        try:
            parts.append((name, float(weight)) if colon else (part, 1.0))
        except ValueError:
            parts.append((part, 1.0))
    bad = [weight for _, weight in parts if not 0 < weight < float("inf")]
    if bad:
        raise UserError(f"the mixture {source!r} has the weight {bad[0]}; weights must be greater than 0")
    return parts


def _write(directory: Path, request: Request, given: Tokenizer | None, progress: Progress) -> Manifest:
    """Write shards and tokenizer into `directory`; returns the manifest."""
    intake = Intake(request)
    documents = iter(intake)
    sample = _sample(documents, request, progress)
    if not any(split == "train" for split, _ in sample):
        raise UserError(
            f"the source {request.source!r} has no text to train on{_why_empty(intake.skips)}; check path and extension"
        )
    progress("training the tokenizer", 0, None)
    tokenizer = given or Tokenizer.train((text for split, text in sample if split == "train"), request.d_vocab)
    dtype = "uint16" if tokenizer.d_vocab <= 1 << 16 else "uint32"
    writers: dict[Split, ShardWriter] = {
        "train": ShardWriter(directory, "train", dtype),
        "validation": ShardWriter(directory, "validation", dtype),
    }
    for batch in _batches(chain(sample, documents)):
        for (split, text), ids in zip(batch, tokenizer.encode_many([text for _, text in batch]), strict=True):
            writers[split].add(ids, len(text.encode("utf-8", "surrogatepass")), tokenizer.end_of_text)
        done = sum(writer.tokens for writer in writers.values())
        progress("tokens", done, None)
        if request.max_tokens is not None and done >= request.max_tokens:
            break
    tokenizer.save(directory / "tokenizer.json")
    skipped = intake.skips.names
    return Manifest(
        **asdict(request),
        tokenizer_hash=tokenizer.hash,
        dtype=dtype,
        train=writers["train"].close(),
        validation=writers["validation"].close(),
        duplicates=intake.duplicates,
        skipped=len(skipped),
        skipped_names=tuple(f"{name}: {reason}" for name, reason in skipped[:SKIPPED_NAMES]),
    )


def _sample(documents: Iterator[tuple[Split, str]], request: Request, progress: Progress) -> list[tuple[Split, str]]:
    """The first documents, enough to train a tokenizer on, and no more than `max_tokens` may need."""
    enough = SAMPLE_BYTES if request.max_tokens is None else min(SAMPLE_BYTES, 8 * request.max_tokens)
    sample, size = [], 0
    for split, text in documents:
        sample.append((split, text))
        size += len(text)
        if len(sample) % 100 == 0:
            progress("documents", len(sample), None)
        if size >= enough:
            break
    return sample


def _batches(documents: Iterable[tuple[Split, str]]) -> Iterator[list[tuple[Split, str]]]:
    iterator = iter(documents)
    while batch := list(islice(iterator, BATCH)):
        yield batch


def _why_empty(skips: Skips) -> str:
    """What was passed over, if anything was, for the message that nothing is left."""
    if not skips.names:
        return ""
    name, reason = skips.names[0]
    return f" ({len(skips.names)} passed over, the first is {name}: {reason})"
