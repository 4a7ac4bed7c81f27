from __future__ import annotations

import json
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openwork.corpus import Tokenizer
from openwork.corpus.tokenizer import BYTES_PER_PIECE, PARALLELISM, PIECES
from openwork.errors import UserError

TEXT = "def f(self, x):\n    return print('one', \"two\", x[0][1]) + 12345\n\n" * 30


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TEXT], 320)


@given(st.text())
@settings(max_examples=100, deadline=None)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_stay_inside_words_numbers_punctuation_newlines_and_spaces(tokenizer):
    text = "print('one')  x12345y_z\n\n    z().add  name ÿa\t= [[]]"
    pieces = [text[start:end] for _, (start, end) in tokenizer.backend.pre_tokenizer.pre_tokenize_str(text)]
    expected = "print|('|one|')|  |x|123|45|y_z|\n\n|    |z|()|.add|  |name| ÿa|\t|=| [[]]"
    assert pieces == expected.split("|")
    assert tokenizer.tokens(tokenizer.encode("('one')[0")) == ["('", "one", "'", ")", "[", "0"]  # `')` is never in TEXT


def test_the_answers_of_the_tasks_are_tokens_of_their_own():
    text = "".join(f"value_{i} = other_{i * 7}\n" for i in range(9000))  # none of the answers is in it
    assert len(text) > 20 * BYTES_PER_PIECE
    learnt = Tokenizer.train([text], 2048)
    assert [piece for piece in PIECES if len(learnt.encode(piece)) != 1] == []


def test_the_last_token_ends_texts_and_no_text_can_write_it(tokenizer):
    assert tokenizer.end_of_text == tokenizer.d_vocab - 1
    assert tokenizer.end_of_text not in tokenizer.encode("a <|endoftext|> b")
    assert tokenizer.decode(tokenizer.encode("a <|endoftext|> b")) == "a <|endoftext|> b"


def test_it_is_learnt_the_same_again_and_found_again(tokenizer, tmp_path):
    assert Tokenizer.train([TEXT], 320).hash == tokenizer.hash
    assert Tokenizer.train([TEXT], 280).hash != tokenizer.hash
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.hash == tokenizer.hash
    assert loaded.encode_many([TEXT, "x"]) == [tokenizer.encode(TEXT), tokenizer.encode("x")]


def test_what_is_no_tokenizer_is_refused(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    with pytest.raises(UserError, match="cannot read the tokenizer"):
        Tokenizer.load(path)
    for content in (b"{}", b"\xff\xfe", b"not json"):
        path.write_bytes(content)
        with pytest.raises(UserError, match="is damaged"):
            Tokenizer.load(path)
    tokenizer.save(path)
    content = json.loads(path.read_text())
    content["added_tokens"] = []
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"has no token <\|endoftext\|>"):
        Tokenizer.load(path)
    with pytest.raises(UserError, match="d_vocab is 100"):
        Tokenizer.train(["x"], 100)


@pytest.mark.parametrize("d_vocab", [-1, 0, 256, 10**9])
def test_a_vocabulary_that_cannot_be_is_refused(d_vocab):
    with pytest.raises(UserError, match=f"d_vocab is {d_vocab}"):
        Tokenizer.train(["x"], d_vocab)


def test_it_has_no_more_tokens_than_asked_for_and_fewer_from_little_text():
    assert Tokenizer.train([TEXT], 270).d_vocab == 270
    assert 257 <= Tokenizer.train(["abc"], 2048).d_vocab < 300
    assert Tokenizer.train([], 2048).d_vocab == 257


def test_its_hash_does_not_depend_on_how_the_file_is_laid_out(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(tokenizer.json), indent=4))
    assert Tokenizer.load(path).hash == tokenizer.hash


def test_what_a_file_says_of_cutting_padding_and_marks_is_not_done(tokenizer, tmp_path):
    from tokenizers import Tokenizer as Library
    from tokenizers import processors

    library = Library.from_str(tokenizer.json)
    library.enable_truncation(3)
    library.enable_padding(length=500)
    end = ("<|endoftext|>", tokenizer.end_of_text)
    library.post_processor = processors.TemplateProcessing(single="<|endoftext|> $A", special_tokens=[end])
    library.save(str(tmp_path / "t.json"))
    loaded = Tokenizer.load(tmp_path / "t.json")
    assert loaded.encode(TEXT) == tokenizer.encode(TEXT)
    assert loaded.encode_many([TEXT, "x"]) == [tokenizer.encode(TEXT), tokenizer.encode("x")]


def test_the_end_of_text_is_shown(tokenizer):
    assert tokenizer.tokens([tokenizer.end_of_text]) == ["<|endoftext|>"]


def test_all_cores_are_used_within_and_nowhere_else(tokenizer):
    tokenizer.encode_many(["x"])
    assert os.environ[PARALLELISM] == "false"
