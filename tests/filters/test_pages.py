"""Pages: the document rules of OBELICS, on either side of each limit."""

import math
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import pages
from filters.pages import split_words
from filters.rules import reasons
from shards import schema

IMAGE = schema.image_part("https://example.org/a.jpg", "alternative text is not text of the page")


def page(*texts: str, images: int = 0) -> pa.Table:
    parts = [schema.text_part(text) for text in texts] + [IMAGE] * images
    return schema.documents([schema.document("test", None, parts)])


@pytest.mark.parametrize(
    ("images", "reason"),
    [(0, "page_too_few_images"), (1, None), (30, None), (31, "page_too_many_images")],
)
def test_page_images(images: int, reason: str | None) -> None:
    assert reasons(pages.page_images(page("text", images=images))).to_pylist() == [reason]
    assert reasons(
        pages.page_images(page("text", images=images), min=None, max=None)
    ).to_pylist() == [None]


def test_images_are_counted_page_by_page() -> None:
    batch = pa.concat_tables([page("x", images=n) for n in (0, 2, 1, 3)])
    expected = ["page_too_few_images", None, "page_too_few_images", "page_too_many_images"]
    assert reasons(pages.page_images(batch, min=2, max=2)).to_pylist() == expected
    assert reasons(pages.page_images(batch.slice(1, 2), min=2, max=2)).to_pylist() == expected[1:3]


@pytest.mark.parametrize(
    ("words", "reason"),
    [(9, "page_too_few_words"), (10, None), (2000, None), (2001, "page_too_many_words")],
)
def test_page_words(words: int, reason: str | None) -> None:
    assert reasons(
        pages.page_words(page("one -", "word " * (words - 1), images=1))
    ).to_pylist() == [reason]


def test_page_special_characters() -> None:
    # 11 of 40 characters are 27.5 %.
    for letters, reason in ((29, None), (28, "page_special_characters")):
        rules = pages.page_special_characters(page("x" * letters + " 1_!? 2-)…\n"))
        assert reasons(rules).to_pylist() == [reason]


def test_page_punctuation() -> None:
    # 3 of 100 words and marks.
    assert reasons(pages.page_punctuation(page("it's " * 97 + ", . “"))).to_pylist() == [None]
    assert reasons(pages.page_punctuation(page("it's " * 98 + ", ."))).to_pylist() == [
        "page_too_little_punctuation"
    ]


def test_page_stop_words() -> None:
    kept = "The cat, and it’s " + "noun " * 5  # 3 stop words of 9
    assert reasons(pages.page_stop_words(page(kept), min=3 / 9)).to_pylist() == [None]
    assert reasons(pages.page_stop_words(page(kept))).to_pylist() == ["page_too_few_stop_words"]
    assert reasons(
        pages.page_stop_words(page("The of and to in is it" + " noun" * 13))
    ).to_pylist() == [None]


def repetition(text: str) -> float:
    """The character repetition of OBELICS, run by run."""
    counts = Counter(text[i : i + 10] for i in range(len(text) - 9))
    ranked = [count for _, count in counts.most_common(math.isqrt(len(counts))) if count > 1]
    return sum(ranked) / max(1, counts.total())


@given(st.text(alphabet="ab é🌊", max_size=80))
def test_character_repetition_is_that_of_counted_runs(text: str) -> None:
    ratio = repetition(text)
    words = split_words(text)
    for limit, reason in ((ratio, None), (ratio - 1e-9, "page_repeated_characters")):
        column = pages.page_repetition(page(text), max_characters=limit, max_words=None)
        assert reasons(column).to_pylist() == [reason if words else "page_no_words"]


def test_page_repetition_limits() -> None:
    once = "abcdefghijklmnopqrstuvwxyz" + "".join(map(chr, range(0x400, 0x400 + 152)))
    # Two of the runs are equal: 2 of 19, and 2 of 20.
    short, long = (
        "abcdefghij" + once[11:19] + "abcdefghij",
        "abcdefghij" + once[11:20] + "abcdefghij",
    )
    assert reasons(pages.page_repetition(page(short))).to_pylist() == ["page_repeated_characters"]
    assert reasons(pages.page_repetition(page(long))).to_pylist() == [None]


def test_page_word_repetition_limits() -> None:
    gram = "A b c d e "
    # Runs of five words: 2 of 10 are equal, and 2 of 9; case does not matter.
    kept, dropped = gram + "1 2 3 4 " + gram.lower(), gram + "1 2 3 " + gram.lower()
    assert reasons(pages.page_repetition(page(kept), max_characters=None)).to_pylist() == [None]
    assert reasons(pages.page_repetition(page(dropped), max_characters=None)).to_pylist() == [
        "page_repeated_words"
    ]


def test_a_page_without_words_gets_a_reason() -> None:
    for batch in (page(), page("", images=2), page("-- … !")):
        assert {name: reasons(rule(batch))[0].as_py() for name, rule in pages.FILTERS.items()} == {
            "page_images": None if batch["parts"][0].as_py()[1:] else "page_too_few_images",
            "page_words": "page_too_few_words",
            "page_special_characters": "page_no_words",
            "page_punctuation": "page_no_words",
            "page_stop_words": "page_no_words",
            "page_repetition": "page_no_words",
            "language": "language_not_kept",
        }


@given(st.lists(st.lists(st.one_of(st.text(), st.none()), max_size=4), max_size=4))
def test_any_page_gives_a_column_of_reasons(documents: list[list[str | None]]) -> None:
    batch = schema.documents(
        schema.document("test", None, [IMAGE if t is None else schema.text_part(t) for t in row])
        for row in documents
    )
    for rule in pages.FILTERS.values():
        column = reasons(rule(batch))
        assert (len(column), column.type) == (len(documents), pa.string())
