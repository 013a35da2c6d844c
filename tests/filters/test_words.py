"""Words as spaCy's English tokenizer cuts them: `CUTS` is what its version 3.8 answers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.words import LONGEST_PIECE, Vocabulary, cut_piece, split

CUTS = {
    "word": "word",
    "word,": "word ,",
    "(word)": "( word )",
    "“It's": "“ It 's",
    "don't": "do n't",
    "Don’t,": "Do n’t ,",
    "couldn't've": "could n't 've",
    "cannot": "can not",
    "its": "its",
    "we're": "we 're",
    "well": "well",
    "Mary's": "Mary 's",
    "Mr.": "Mr.",
    "end.": "end .",
    "end.)": "end . )",
    "U.S.": "U.S.",
    "USA.": "USA .",
    "e.g.,": "e.g. ,",
    "J.": "J.",
    "wait...": "wait ...",
    "yes!?": "yes ! ?",
    "3.5": "3.5",
    "10km": "10 km",
    "50%": "50 %",
    "$5.": "$ 5 .",
    "1,000": "1,000",
    "8am": "8 am",
    "well-known": "well - known",
    "64-bit": "64 - bit",
    "-5": "-5",
    "1-2": "1 - 2",
    "and/or": "and/or",
    "his/her": "his / her",
    "end.Start": "end . Start",
    "file.txt": "file.txt",
    "www.example.org/a-b,": "www.example.org/a-b ,",
    "someone@example.org": "someone@example.org",
    "#tag": "# tag",
    "__init__": "_ _ init _ _",
    "©2020": "© 2020",
    "—": "—",
    "...": "...",
    ":)": ":)",
    "हिन्दी,": "हिन्दी ,",
}


@pytest.mark.parametrize("piece", CUTS)
def test_pieces_are_cut_as_spacy_cuts_them(piece: str) -> None:
    assert cut_piece(piece) == tuple(CUTS[piece].split())


@given(st.text(min_size=1).filter(lambda text: len(text.split()) == 1).map(str.strip))
def test_no_character_is_lost(piece: str) -> None:
    assert "".join(cut_piece(piece)) == piece
    assert all(cut_piece(piece))


def test_a_piece_that_is_too_long_is_left_whole() -> None:
    for piece in ("." * (LONGEST_PIECE + 1), "a." * LONGEST_PIECE, "(" * 100_000):
        assert cut_piece(piece) == (piece,)


@given(st.lists(st.text(), max_size=5))
def test_texts_are_split_where_python_splits_them(texts: list[str]) -> None:
    pieces, counts = split(texts)
    assert pieces.to_pylist() == [piece for text in texts for piece in text.split()]
    assert counts.tolist() == [len(text.split()) for text in texts]


TEXTS = st.lists(st.lists(st.sampled_from([*CUTS, "\n"])).map(" ".join), max_size=5)


def words_of(text: str) -> list[str]:
    return [word for piece in text.split() for word in cut_piece(piece)]


@given(TEXTS, st.lists(st.integers(0, 4)))
def test_words_are_numbered_text_by_text(texts: list[str], rows: list[int]) -> None:
    words = Vocabulary().read(texts)
    taken = words.take(np.array([row for row in rows if row < len(texts)], int))
    for found, expected in (
        (words, texts),
        (taken, [texts[row] for row in rows if row < len(texts)]),
    ):
        names = found.vocabulary.array(str, object)[found.codes].tolist()
        assert names == [word for text in expected for word in words_of(text)]
        assert found.counts.tolist() == [len(words_of(text)) for text in expected]
        assert found.sums(found.lengths).tolist() == [
            sum(map(len, words_of(text))) for text in expected
        ]


@given(TEXTS)
def test_the_words_of_lines_are_those_of_the_text(texts: list[str]) -> None:
    words = Vocabulary().read(texts)
    lines = [line for text in texts for line in text.splitlines()]
    alone = Vocabulary().read(lines)
    inside = words.lines(split(lines)[1])
    assert inside.counts.tolist() == alone.counts.tolist()
    assert inside.sentences().tolist() == alone.sentences().tolist()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two", 2),
        ("One. Two.", 2),
        ("It is 3.5 m.", 1),
        ("What?! Well", 2),
        ("(One.) Two", 2),
        ("One ... two", 1),
        (". One", 2),
        ("", 1),
        ("一。", 1),
        ("One 。Two", 2),
    ],
)
def test_sentences_are_those_of_spacys_sentencizer(text: str, count: int) -> None:
    assert Vocabulary().read(["One. Two. Three.", text]).sentences().tolist() == [3, count]


def test_a_vocabulary_grows() -> None:
    vocabulary = Vocabulary()
    first = vocabulary.read(["a b"])
    assert vocabulary.array(len).tolist() == [1, 1]
    second = vocabulary.read(["b ccc"])
    assert (first.codes.tolist(), second.codes.tolist()) == ([0, 1], [1, 2])
    assert second.lengths.tolist() == [1, 3]
    assert (vocabulary.number("ccc"), vocabulary.number("d")) == (2, -1)
