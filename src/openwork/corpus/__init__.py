"""Text to tokens: sources, tokenizer, token shards."""

from openwork.corpus.build import build_corpus
from openwork.corpus.shards import Corpus, open_corpus
from openwork.corpus.tokenizer import Tokenizer

__all__ = ["Corpus", "Tokenizer", "build_corpus", "open_corpus"]
