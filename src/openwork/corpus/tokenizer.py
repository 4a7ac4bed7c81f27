"""Byte-level BPE in the manner of the paper's tokenizer: code is cut into identifiers, numbers, runs of punctuation, spaces.

A cut never joins two kinds, so that ``('`` and ``")`` are tokens of their own and the same wherever they stand.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import Regex, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from openwork.artifacts import read_bytes, sha256_of, write_atomically
from openwork.errors import UserError

END_OF_TEXT = "<|endoftext|>"
PATTERN = r" ?[A-Za-z_]+|[0-9]{1,3}| ?[^\sA-Za-z0-9_]+|\n+|[^\S\n]+"
"""Identifiers and runs of punctuation, each with one space before it; up to three digits; newlines; other spaces."""
SMALLEST = 256 + 1
"""Every byte and the end-of-text token."""

os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class Tokenizer:
    """Text to token ids and back; a thin shell around a `tokenizers` tokenizer."""

    def __init__(self, backend: Backend, where: str = "the tokenizer") -> None:
        end = backend.token_to_id(END_OF_TEXT)
        if end is None:
            raise UserError(
                f"{where} has no token {END_OF_TEXT}, which separates documents; add it or use another tokenizer"
            )
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True  # a text that contains <|endoftext|> does not end there
        self.backend = backend
        self.end_of_text: int = end
        """Id of the token that stands before every document."""
        self.d_vocab: int = max(backend.get_vocab(with_added_tokens=True).values()) + 1
        """Number of token ids."""

    @classmethod
    def train(cls, texts: Iterable[str], d_vocab: int = 2048) -> Tokenizer:
        """A tokenizer of `d_vocab` tokens (the last one ends texts) learnt from `texts`; deterministic.

        Raises:
            UserError: `d_vocab` is smaller than the bytes need.
        """
        if d_vocab < SMALLEST:
            raise UserError(f"d_vocab is {d_vocab}; a byte-level vocabulary needs at least {SMALLEST}")
        backend = Backend(models.BPE())
        pieces = pre_tokenizers.Split(Regex(PATTERN), "isolated")
        to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([pieces, to_bytes])  # pyright: ignore[reportAttributeAccessIssue]
        backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        backend.train_from_iterator(
            texts, trainers.BpeTrainer(vocab_size=d_vocab - 1, initial_alphabet=alphabet, show_progress=False)
        )
        backend.add_special_tokens([END_OF_TEXT])
        return cls(backend)

    @classmethod
    def load(cls, path: str | Path) -> Tokenizer:
        """The tokenizer in a tokenizer.json.

        Raises:
            UserError: the file is missing, damaged, or has no end-of-text token.
        """
        data = read_bytes(path, "tokenizer")
        try:
            backend = Backend.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises plain Exception
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"the tokenizer {path} is damaged ({reason}); give a whole tokenizer.json") from error
        return cls(backend, f"the tokenizer {path}")

    def save(self, path: str | Path) -> None:
        """Write the tokenizer as tokenizer.json."""
        write_atomically(path, self.backend.to_str())

    def encode(self, text: str) -> list[int]:
        """The token ids of `text`, without any end-of-text token."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def encode_many(self, texts: list[str]) -> list[list[int]]:
        """The token ids of each text, with all cores."""
        return [encoding.ids for encoding in self.backend.encode_batch(texts, add_special_tokens=False)]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are no whole character show as the replacement character."""
        return self.backend.decode(list(ids), skip_special_tokens=False)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The text of each token alone, for display."""
        return [self.decode([i]) for i in ids]

    @cached_property
    def hash(self) -> str:
        """SHA-256 over the tokenizer's content."""
        return sha256_of(json.dumps(json.loads(self.backend.to_str()), sort_keys=True).encode())
