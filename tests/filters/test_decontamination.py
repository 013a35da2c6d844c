"""N-grams in common with evaluation items, against a naive search for them."""

import re
import string
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import decontamination
from filters.decontamination import Index, Overlap, Words, contaminated, find

QUESTION = (
    "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."
)
WORDS = (
    "natalia sold clips to 48 of her friends in april and then she sold half as many clips in may"
)


def index(*texts: str, ngram: int = 13, shortest: int = 8) -> Index:
    return Index.of([("gsm8k", text) for text in texts], ngram, shortest)


def overlaps(texts: Sequence[str], found: Index) -> list[Overlap]:
    return decontamination.overlaps(find(texts, found), found)


def words(text: str) -> str:
    """As `Words`, for ASCII, by other means."""
    return " ".join(re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower()).split())


def first_words(n: int) -> str:
    return " ".join(WORDS.split()[:n])


def test_a_document_with_thirteen_words_of_an_item_names_the_set_and_the_words():
    page = f"A page.\n\n{QUESTION.upper().replace(' ', '  ')} And more."
    assert overlaps(["Nothing of it.", page], index(QUESTION)) == [
        Overlap(row=1, set="gsm8k", ngram=first_words(13), ngrams=len(WORDS.split()) - 12)
    ]


def test_twelve_words_of_a_longer_item_are_not_enough():
    found = index(QUESTION)
    assert overlaps([first_words(12) + " something else"], found) == []
    assert len(overlaps([first_words(13)], found)) == 1


def test_short_items_are_looked_for_whole_down_to_a_length():
    found = index(first_words(12), "one two three four five six seven", ngram=13, shortest=8)
    page = f"He said: {first_words(12)} - and one two three four five six seven."
    assert overlaps([page], found) == [Overlap(0, "gsm8k", first_words(12), 1)]
    assert overlaps([first_words(11)], found) == []
    shorter = index("one two three four five six seven", shortest=7)
    assert overlaps([page], shorter)[0].ngram == "one two three four five six seven"
    # With a shorter n-gram than the shortest item there is only one kind.
    assert len(overlaps(["x one two three"], index("one two three", ngram=3))) == 1


def test_the_first_overlap_is_named_and_different_ones_are_counted():
    found = Index.of([("b", first_words(9)), ("a", QUESTION)], 13, 8)
    (both,) = overlaps([f"{QUESTION} {QUESTION}"], found)
    # Of two at the same place the shorter one comes first; repeated ones count once.
    assert (both.set, both.ngram) == ("b", first_words(9))
    assert both.ngrams == 1 + len(WORDS.split()) - 12


def test_an_n_gram_does_not_reach_from_one_document_to_the_next():
    halves = [first_words(7), " ".join(WORDS.split()[7:14])]
    assert overlaps(halves, index(QUESTION)) == []
    # Nor from one item to the next.
    assert overlaps([first_words(14)], index(*halves, shortest=8)) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a “well-known” fact — isn’t it?", "its a wellknown fact isnt it"),
        ("  \tTabs\u00a0and\u3000blanks \n", "tabs and blanks"),
        ("ÉCOLE İstanbul STRASSE ß", "école i\u0307stanbul strasse ß"),
        ("50% + 3 = x_1 👍 \x00\u200b\ud800", "50 3 x1"),
        ("... — !", ""),
        ("", ""),
        ("नमस्ते", "नमस्ते"),
    ],
)
def test_words_are_in_small_letters_and_without_punctuation(text: str, expected: str):
    assert Words.of([text, "next"]).texts() == [expected, "next"]


def test_nothing_to_look_for_and_nothing_to_look_in():
    assert overlaps([QUESTION], index("too short")) == []
    assert overlaps([], index(QUESTION)) == []
    assert overlaps(["", " ", "?"], index(QUESTION)) == []


letters = st.lists(st.sampled_from(["a", "B", "a-", "b.", "c", " ", "\n"]), max_size=40)
texts = st.lists(letters.map(" ".join), max_size=8)


def naive(documents: Sequence[str], items: Sequence[str], ngram: int, shortest: int) -> list[int]:
    """How many different n-grams each document has in common with the items."""
    wanted = set()
    for item in map(str.split, map(words, items)):
        n = ngram if len(item) >= ngram else len(item)
        if n >= min(shortest, ngram):
            wanted |= {tuple(item[i : i + n]) for i in range(len(item) - n + 1)}
    counts = []
    for document in map(str.split, map(words, documents)):
        runs = {
            tuple(document[i : i + n])
            for n in range(1, ngram + 1)
            for i in range(len(document) - n + 1)
        }
        counts.append(len(runs & wanted))
    return counts


@given(texts, texts, st.integers(2, 6), st.integers(1, 6))
def test_it_finds_what_a_naive_search_finds(
    documents: list[str], items: list[str], ngram: int, shortest: int
):
    found = overlaps(documents, index(*items, ngram=ngram, shortest=shortest))
    counts = np.zeros(len(documents), int)
    for overlap in found:
        counts[overlap.row] = overlap.ngrams
        assert f" {overlap.ngram} " in f" {words(documents[overlap.row])} "
    assert counts.tolist() == naive(documents, items, ngram, shortest)


@given(texts, texts)
def test_a_document_is_judged_alike_in_any_batch(documents: list[str], items: list[str]):
    found = index(*items, ngram=4, shortest=3)
    alone = [
        Overlap(row, o.set, o.ngram, o.ngrams)
        for row, text in enumerate(documents)
        for o in overlaps([text], found)
    ]
    assert overlaps(documents, found) == alone


def test_slices_of_a_batch_do_not_show(monkeypatch: pytest.MonkeyPatch):
    documents = [QUESTION, "nothing", f"{QUESTION} {QUESTION}", "", QUESTION] * 3
    items = [first_words(9), QUESTION, "other", QUESTION[5:]]
    whole, found = overlaps(documents, index(*items)), index(*items)
    monkeypatch.setattr(decontamination, "SLICE", 100)
    assert overlaps(documents, found) == whole
    assert index(*items).ngrams.equals(found.ngrams)
    assert index(*items).items.equals(found.items)


def test_equal_hashes_of_different_words_are_no_overlap(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(decontamination, "BASE", 1)  # the hash is then a sum of letters
    monkeypatch.setattr(decontamination, "INVERSE", 1)
    found = index("ab cd ef", ngram=3)
    (starts, hashes) = Words.of(["ba dc fe"]).ngrams(3)
    assert found.grams[0].find(hashes)[0].tolist() == starts.tolist() == [0]
    assert overlaps(["ba dc fe", "ab cd ef"], found) == [Overlap(1, "gsm8k", "ab cd ef", 1)]


def test_the_rule_counts_n_grams_and_keeps_up_to_its_limit():
    found = [Overlap(1, "a", "x", 3), Overlap(3, "a", "y", 1)]
    rule = contaminated(found, 4, max=1)
    assert (rule.reason, rule.values.tolist()) == ("contaminated", [0, 3, 0, 1])
    assert rule.drops().tolist() == [False, True, False, False]
    assert not contaminated(found, 4, max=None).drops().any()
