"""Language identification with the bundled fastText model."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from filters import language

SENTENCES = {
    "en": "The harbour was rebuilt after the storm, and the ships return to it.",
    "de": "Der Hafen wurde nach dem Sturm wieder aufgebaut, und die Schiffe kehren zurück.",
    "fr": "Le port a été reconstruit après la tempête et les navires y reviennent.",
    "ru": "Гавань была восстановлена после шторма, и корабли возвращаются в неё.",
    "zh": "风暴过后，港口得到重建，船只又回来了。",
}


def test_sentences_are_told_apart() -> None:
    codes, scores = language.identify(list(SENTENCES.values()))
    assert codes == list(SENTENCES)
    assert scores.dtype == np.float32
    assert (scores > 0.65).all()


def test_lines_are_read_as_one_text() -> None:
    words = SENTENCES["de"].split()
    one_line, many_lines = language.identify([" ".join(words), "\r\n\t".join(words)])[1]
    assert one_line == many_lines


def test_scores_are_at_most_one() -> None:
    # The model itself says 1.00006 here.
    codes, scores = language.identify(["한국어 문장입니다"])
    assert (codes, scores.tolist()) == (["ko"], [1.0])


def test_empty_texts_are_undetermined() -> None:
    codes, scores = language.identify(["", " \n\t", SENTENCES["en"]])
    assert codes == ["und", "und", "en"]
    assert scores[:2].tolist() == [0, 0]
    nothing, none = language.identify([])
    assert (nothing, none.shape) == ([], (0,))


@given(st.lists(st.text(), max_size=5))
def test_any_unicode_is_identified(texts: list[str]) -> None:
    codes, scores = language.identify(texts)
    assert len(codes) == len(scores) == len(texts)
    assert all(codes)
    assert ((scores >= 0) & (scores <= 1)).all()
    assert np.array_equal(scores, scores.round(4))
