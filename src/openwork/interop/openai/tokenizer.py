r"""The release's tokenizer: a byte-level BPE in the two files of GPT-2's form, with a pattern of its own.

``encoder.json`` maps each token, its bytes written as printable characters, to its id; ``vocab.bpe`` lists the merges,
best first. ``<|endoftext|>`` is token 2047.

The release runs it with tiktoken, which joins any two neighbours whose join is a token, the lowest id first. So every
way to cut a token in two is a merge here, in the order of the ids, not only the one that ``vocab.bpe`` names.
"""

from __future__ import annotations

from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, models, pre_tokenizers

from openwork.corpus.tokenizer import END_OF_TEXT, Tokenizer
from openwork.errors import UserError
from openwork.files import read_bytes, read_json

TOKENIZER_FILES = ("encoder.json", "vocab.bpe")
PATTERN = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How the release cuts text into pieces (its `tinypython_2k`); merges happen inside a piece only."""
END_OF_TEXT_ID = 2047


def load_tokenizer(directory: str | Path, d_vocab: int = END_OF_TEXT_ID + 1) -> Tokenizer:
    """The tokenizer in `directory` (``encoder.json``, ``vocab.bpe``) of a model with `d_vocab` tokens.

    Raises:
        UserError: a file is missing or damaged, the two do not belong together, or the model has fewer tokens.
    """
    directory = Path(directory)
    encoder, named = _encoder(directory / "encoder.json"), _merges(directory / "vocab.bpe")
    joins = _joins(encoder)
    encoder.setdefault(END_OF_TEXT, END_OF_TEXT_ID)
    if len(set(encoder.values())) != len(encoder) or max(encoder.values()) >= d_vocab:
        raise UserError(
            f"{directory}/encoder.json has ids up to {max(encoder.values())}, some perhaps twice, the model {d_vocab} "
            "tokens; give the tokenizer that belongs to the model"
        )
    for pair in named:
        strange = [token for token in (*pair, "".join(pair)) if token not in encoder]
        if strange:
            raise UserError(
                f"{directory}/vocab.bpe makes {strange[0]!r}, which encoder.json does not have; give both of one model"
            )
    backend = tokenizers.Tokenizer(models.BPE(vocab=encoder, merges=joins, ignore_merges=True))
    cut = pre_tokenizers.Split(Regex(PATTERN), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, to_bytes])  # pyright: ignore[reportAttributeAccessIssue]
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    return Tokenizer(backend)


def _encoder(path: Path) -> dict[str, int]:
    encoder = read_json(path, "tokenizer")
    missing = [letter for letter in pre_tokenizers.ByteLevel.alphabet() if letter not in encoder]
    if missing or not all(type(i) is int and i >= 0 for i in encoder.values()):
        raise UserError(
            f"the tokenizer {path} does not map all 256 bytes and every token to an id; give the release's encoder.json"
        )
    return encoder


def _joins(encoder: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of tokens whose join is a token, the join with the lowest id first."""
    pairs = [
        (encoder[token], token[:cut], token[cut:])
        for token in encoder
        for cut in range(1, len(token))
        if token != END_OF_TEXT and token[:cut] in encoder and token[cut:] in encoder
    ]
    return [(left, right) for _, left, right in sorted(pairs)]


def _merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = read_bytes(path, "tokenizer").decode("utf-8").splitlines()
        pairs = [line.split(" ") for line in lines if line and not line.startswith("#version")]
        return [(left, right) for left, right in pairs]
    except ValueError as error:  # not UTF-8, or no two words on a line
        raise UserError(f"the tokenizer {path} is damaged ({error}); give the release's vocab.bpe") from error
