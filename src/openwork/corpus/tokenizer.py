r"""Byte-level BPE over pieces of code, after the kind of the release's tokenizer.

Text is first cut into words (letters and underscores, with the one dot or space before them), numbers of up to three
digits, runs of punctuation, newlines and other spaces; merges happen inside a piece only. So ``('``, ``]]``, ``.add``
and ``+=`` are tokens of their own, and mean the same wherever they stand. Every byte is in the vocabulary: any text can
be encoded, and decodes to itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

from openwork.errors import UserError
from openwork.files import read_bytes, sha256_of, write_atomically

END_OF_TEXT = "<|endoftext|>"
LETTER = r"\p{L}\p{M}_"
PATTERN = "|".join(
    (
        rf"[ .]?[{LETTER}]+",
        r" ?\p{N}{1,3}",
        rf" ?(?:(?!\.[{LETTER}])[^\s{LETTER}\p{{N}}])+",  # leaves the dot of `().add` to `.add`
        r"\n+",
        r"[^\S\n]+",
    )
)
SMALLEST = 256 + 1
"""Every byte and the end-of-text token."""
LARGEST = 1 << 20
"""Several times the largest vocabularies in use."""
PIECES = (
    *("('", '("', "')", '")', "[[", "]]", ".add", " +=", "):", " =", " ==", " {"),
    *(" as", " in", " else", " enumerate", " range", " " * 8, " " * 12),
)
"""What the tasks choose between: each is to be one token, also where a corpus has few of them (paper, table 1)."""
BYTES_PER_PIECE = 10_000
"""Training text for each time that the pieces are shown beside it: often enough for a vocabulary of 2048."""

PARALLELISM = "TOKENIZERS_PARALLELISM"
USERS_PARALLELISM = os.environ.get(PARALLELISM)


class Tokenizer:
    """Text to token ids and back: a thin shell around a tokenizer of the `tokenizers` library."""

    def __init__(self, backend: tokenizers.Tokenizer, json_text: str | None = None) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.add_special_tokens([END_OF_TEXT])
        backend.encode_special_tokens = True  # a text that contains <|endoftext|> does not end there
        self.backend = backend
        self.json = _canonical(json_text or backend.to_str())
        """The content of tokenizer.json."""
        self.end_of_text = cast(int, backend.token_to_id(END_OF_TEXT))
        """Id of the token that stands before every document."""
        self.d_vocab: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        """Number of token ids."""

    @classmethod
    def train(cls, texts: Iterable[str], d_vocab: int = 2048) -> Tokenizer:
        """A tokenizer of `d_vocab` tokens learnt from `texts`, end-of-text the last; the same texts, the same tokens.

        From very little text it has fewer tokens: pairs that occur once are not merged.

        Raises:
            UserError: `d_vocab` is smaller than the bytes need, or larger than makes sense.
        """
        if not SMALLEST <= d_vocab <= LARGEST:
            raise UserError(
                f"d_vocab is {d_vocab}; a byte-level vocabulary needs at least {SMALLEST} tokens, at most {LARGEST:,}"
            )
        backend = tokenizers.Tokenizer(models.BPE())
        cut = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])  # pyright: ignore[reportAttributeAccessIssue]
        backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        trainer = trainers.BpeTrainer(
            vocab_size=d_vocab - 1,
            min_frequency=2,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        with _all_cores():
            backend.train_from_iterator(_with_pieces(texts), trainer)
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer in a tokenizer.json.

        Raises:
            UserError: the file is missing, damaged, or has no end-of-text token.
        """
        data = read_bytes(path, "tokenizer")
        try:
            text = data.decode("utf-8")
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the tokenizer {path} is damaged ({reason}); give a whole tokenizer.json") from error
        if backend.token_to_id(END_OF_TEXT) is None:
            raise UserError(
                f"the tokenizer {path} has no token {END_OF_TEXT}, which separates documents; add it, or train one"
            )
        return cls(backend, text)

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as tokenizer.json."""
        write_atomically(path, self.json)

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without any end-of-text token."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """The token ids of each text, with all cores."""
        with _all_cores():
            return [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no whole character show as the replacement character."""
        return self.backend.decode([int(i) for i in ids], skip_special_tokens=False)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The text of each token alone, for display."""
        return [self.decode([i]) for i in ids]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the content of tokenizer.json, however it is laid out."""
        return sha256_of(self.json.encode())


def _canonical(json_text: str) -> str:
    content: Any = json.loads(json_text)
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _with_pieces(texts: Iterable[str]) -> Iterator[str]:
    """The `texts`, then `PIECES` often enough to be learnt whole."""
    size = 0
    for text in texts:
        size += len(text)
        yield text
    yield "\n".join(PIECES * (size // BYTES_PER_PIECE))


@contextmanager
def _all_cores() -> Iterator[None]:
    """Let the library use all cores here and nowhere else: a process that forks later is neither warned nor hung."""
    os.environ[PARALLELISM] = USERS_PARALLELISM or "true"
    try:
        yield
    finally:
        os.environ[PARALLELISM] = USERS_PARALLELISM or "false"
