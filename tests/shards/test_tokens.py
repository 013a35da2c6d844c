import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import tokens, train_tokenizer

TOKENIZER = tokens.load_tokenizer()
# Any character but lone surrogates, and texts that pretend to be special tokens.
TEXT = st.lists(st.one_of(st.text(), st.sampled_from((*tokens.SPECIALS, " ", "\n\n", "word")))).map(
    "".join
)


@given(TEXT)
def test_the_bundled_vocabulary_is_lossless(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids) == text


@given(TEXT)
def test_texts_cannot_place_special_tokens(text: str) -> None:
    assert not {tokens.EOS, tokens.IMAGE, tokens.PAD} & set(TOKENIZER.encode(text).ids)


def test_special_tokens_come_first() -> None:
    assert TOKENIZER.get_vocab_size() == 8192
    ids = [TOKENIZER.token_to_id(token) for token in tokens.SPECIALS]
    assert ids == [tokens.EOS, tokens.IMAGE, tokens.PAD] == [0, 1, 2]


def test_count_tokens() -> None:
    texts = ["", "the page", "<eos>", "Grüße 世界"]
    counts = tokens.count_tokens(TOKENIZER, texts)
    assert counts.dtype == np.int32
    assert counts.tolist() == [len(TOKENIZER.encode(text).ids) for text in texts]
    assert counts[:2].tolist() == [0, 2]
    assert tokens.count_tokens(TOKENIZER, []).shape == (0,)


@given(TEXT, st.integers(min_value=4, max_value=40))
def test_pieces_join_to_the_text_and_fit(text: str, limit: int) -> None:
    pieces = tokens.split_text(TOKENIZER, text, limit)
    assert "".join(piece for piece, _ in pieces) == text
    for piece, count in pieces:
        assert count == len(TOKENIZER.encode(piece).ids)
        assert 0 < count <= limit


def test_pieces_end_between_words_and_are_as_long_as_can_be() -> None:
    text = "One day the page was read by all of them.\n\nThe other day it was not. " * 20
    pieces = [piece for piece, _ in tokens.split_text(TOKENIZER, text, 50)]
    assert all(piece[0].isspace() and not piece[-1].isspace() for piece in pieces[1:-1])
    counts = tokens.count_tokens(TOKENIZER, pieces)
    assert counts.sum() == len(TOKENIZER.encode(text).ids)
    assert counts[:-1].min() >= 45


def test_a_word_longer_than_the_limit_is_cut_inside() -> None:
    text = "short " + "x7" * 100 + " short"
    pieces = tokens.split_text(TOKENIZER, text, 30)
    assert pieces[0][0] == "short"
    assert "".join(piece for piece, _ in pieces) == text


def test_a_character_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(ValueError, match="alone is 4 tokens, more than the limit of 2"):
        tokens.split_text(TOKENIZER, "ab 🫥", 2)
    with pytest.raises(ValueError, match="limit of 0"):
        tokens.split_text(TOKENIZER, "ab", 0)


def test_tokenizers_are_known_by_name_and_content(tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    tokenizer = train_tokenizer.train(iter(["a small text, a small text"]), 268)
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert tokens.tokenizer_identity(str(path)) == {"name": str(path), "sha256": sha256}
    assert tokens.tokenizer_identity()["name"] == "mixwright-8k"
    assert tokens.load_tokenizer(str(path)).get_vocab_size() == 268
    with pytest.raises(FileNotFoundError, match="no tokenizer 'nowhere'"):
        tokens.load_tokenizer("nowhere")


def test_training_reads_three_kinds_of_files_and_repeats_itself(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a small text\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"body": "größer"}\n{"body": "kleiner"}\n', encoding="utf-8")
    (tmp_path / "c.tsv").write_text("url\tcaption\nhttp://x\ta red car\n", encoding="utf-8")
    files = [str(tmp_path / "a.txt"), f"{tmp_path}/b.jsonl:body", f"{tmp_path}/c.tsv:caption"]
    texts = [text for file in files for text in train_tokenizer.read_texts(file)]
    assert texts == ["a small text\n", "größer", "kleiner", "a red car"]

    out = tmp_path / "out.json"
    command = [sys.executable, "-m", "shards.train_tokenizer", *files]
    subprocess.run([*command, "--out", str(out), "--vocabulary", "280"], check=True)
    again = train_tokenizer.train(iter(texts), 280).to_str()
    assert out.read_text(encoding="utf-8") == again + "\n"
    assert tokens.load_tokenizer(str(out)).token_to_id("<pad>") == 2
