"""Passages: texts fall apart and together again, and equal passages have equal keys."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.passages import NO_KEY, covered, passages, split, without

texts = st.lists(st.text(alphabet="ab.!?…。” \n\t", max_size=30), max_size=4)
units = st.sampled_from(["line", "paragraph", "sentence"])


@given(texts, units, st.integers(1, 3))
def test_pieces_are_the_texts(texts: list[str], unit: str, span: int):
    found = passages(texts, unit, span)
    assert "".join(found.pieces) == "".join(texts)
    nothing = np.zeros(len(found.pieces), bool)
    assert without(texts, found, nothing) == texts
    assert without(texts, found, ~nothing) == [""] * len(texts)


@pytest.mark.parametrize(
    ("unit", "pieces"),
    [
        ("line", ["One. Two!\n", "\n", "Three”? Four\n", "five. e.g.x"]),
        ("paragraph", ["One. Two!\n\n", "Three”? Four\nfive. e.g.x"]),
        ("sentence", ["One. ", "Two!\n\n", "Three”? ", "Four\n", "five. ", "e.g.x"]),
    ],
)
def test_units(unit: str, pieces: list[str]):
    text = "One. Two!\n\nThree”? Four\nfive. e.g.x"
    assert split(text, unit) == pieces


def test_sentences_of_scripts_without_spaces():
    assert split("一。二！」三", "sentence") == ["一。", "二！」", "三"]


def test_a_page_of_marks_takes_linear_time():
    assert len(split("." * 200_000 + "\n" * 200_000 + "x", "sentence")) == 2
    assert len(split("\n \t" * 100_000 + "x", "paragraph")) == 2


def test_keys_are_of_words():
    found = passages(["A cat.\na CAT\n***\n\na dog"], "line")
    a, again, marks, blank, dog = found.keys.tolist()
    assert a == again != dog
    assert marks == blank == NO_KEY
    assert found.words.tolist() == [2, 2, 0, 0, 2]


def test_spans_stay_within_a_text_and_pass_over_what_has_no_words():
    one, other = "A one. B two.\n***\nC three. D four.", "C three. D four. A one."
    found = passages([one, other], "sentence", 2)
    named = {
        "".join(found.pieces[i : found.ends[i]]).strip()
        for i in np.flatnonzero(found.keys != NO_KEY)
    }
    assert named == {
        "A one. B two.",
        "B two.\n***\nC three.",
        "C three. D four.",
        "D four. A one.",
    }
    keys = [key for key in found.keys.tolist() if key != NO_KEY]
    assert keys[2] == keys[3]
    assert len(set(keys)) == 4


def test_overlapping_spans_go_together():
    found = passages(["A a. B b. C c. D d. E e."], "sentence", 3)
    lost = np.array([True, True, False, False, False])
    assert covered(found, lost).tolist() == [True] * 4 + [False]
    assert without(["A a. B b. C c. D d. E e."], found, covered(found, lost)) == ["E e."]
