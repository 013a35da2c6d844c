"""Prose: one tiny document on either side of each published threshold."""

import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import text
from filters.rules import reasons
from shards import schema

CLEAN = (
    "The harbour of the old town was rebuilt after the storm, and ships return to it.\n"
    "Fishermen that have lost their boats were given new ones with money from the province.\n"
    "What does a visitor see there? First the lighthouse, which burned for three nights.\n"
    "Behind it begins the market, where bread, rope and painted tiles are sold every morning.\n"
    "Children swim below the walls until the evening bell calls them home."
)


def prose(*texts: str) -> pa.Table:
    return schema.documents(
        schema.document("test", None, [schema.text_part(value)]) for value in texts
    )


def reason_of(column: pa.Array) -> str | None:
    (reason,) = column.to_pylist()
    assert reason is None or isinstance(reason, str)
    return reason


def only(rule: Callable[..., pa.Array], threshold: str, value: str) -> str | None:
    """The reason for one text with every threshold but one turned off."""
    off: dict[str, Any] = {}
    for name, parameter in inspect.signature(rule).parameters.items():
        if isinstance(parameter.default, bool):
            off[name] = False
        elif "None" in str(parameter.annotation):
            off[name] = None
    off.pop(threshold)
    return reason_of(rule(prose(value), **off))


def rows(*counts: tuple[int, str]) -> str:
    """Lines made by repeating patterns; `{}` in a pattern numbers its lines."""
    return "\n".join(line.format(i) for count, line in counts for i in range(count))


@pytest.mark.parametrize(
    ("threshold", "kept", "dropped", "reason"),
    [
        ("min_words", "word " * 50, "word " * 49 + "-- !", "gopher_too_few_words"),
        ("max_words", "a " * 100_000, "a " * 100_001, "gopher_too_many_words"),
        ("min_mean_word_length", "one, two.", "one, " * 19 + "to.", "gopher_words_too_short"),
        (
            "max_mean_word_length",
            "abcdefghij",
            "abcdefghij " * 9 + "abcdefghijk",
            "gopher_words_too_long",
        ),
        (
            "max_hashes_per_word",
            "# " * 10 + "w " * 100,
            "# " * 11 + "w " * 100,
            "gopher_too_many_hashes",
        ),
        (
            "max_ellipses_per_word",
            "w… " + "w " * 9,
            "w… w... " + "w " * 8,
            "gopher_too_many_ellipses",
        ),
        (
            "max_bullet_lines",
            rows((9, "• item"), (1, "end")),
            rows((9, "• item"), (1, " - end")),
            "gopher_too_many_bullet_lines",
        ),
        (
            "max_ellipsis_lines",
            rows((2, "more..."), (1, "more…"), (7, "line")),
            rows((3, "more..."), (1, "more… "), (6, "line")),
            "gopher_too_many_ellipsis_lines",
        ),
        (
            "min_alphabetic_words",
            "a1 b c d e f g h 9 |",
            "a1 b c d e f g 8 9 |",
            "gopher_too_few_alphabetic_words",
        ),
        ("min_stop_words", "the end of", "the end, the start", "gopher_too_few_stop_words"),
    ],
)
def test_gopher_quality_limits(threshold: str, kept: str, dropped: str, reason: str) -> None:
    assert only(text.gopher_quality, threshold, kept) is None
    assert only(text.gopher_quality, threshold, dropped) == reason


@pytest.mark.parametrize(
    ("threshold", "kept", "dropped", "reason"),
    [
        (
            "max_duplicate_lines",
            rows((7, "line {}"), (3, "line 0")),
            rows((6, "line {}"), (4, "line 0")),
            "gopher_duplicate_lines",
        ),
        (
            "max_duplicate_paragraphs",
            rows((7, "paragraph {}\n"), (3, "paragraph 0\n")),
            rows((6, "paragraph {}\n"), (4, "paragraph 0\n")),
            "gopher_duplicate_paragraphs",
        ),
        (
            "max_duplicate_line_characters",
            "\n".join(["x" * 60, "y" * 20, "y" * 20]),
            "\n".join(["x" * 58, "y" * 21, "y" * 21]),
            "gopher_duplicate_line_characters",
        ),
        (
            "max_duplicate_paragraph_characters",
            "\n\n".join(["x" * 60, "y" * 20, "y" * 20]),
            "\n \n".join(["x" * 58, "y" * 21, "y" * 21]),
            "gopher_duplicate_paragraph_characters",
        ),
    ],
)
def test_gopher_line_repetition_limits(
    threshold: str, kept: str, dropped: str, reason: str
) -> None:
    assert only(text.gopher_repetition, threshold, kept) is None
    assert only(text.gopher_repetition, threshold, dropped) == reason


@pytest.mark.parametrize(
    ("n", "threshold", "limit", "occurrences"),
    [
        *[(n, f"max_top_{n}_gram", limit, 2) for n, limit in [(2, 0.20), (3, 0.18), (4, 0.16)]],
        *[(n, f"max_duplicate_{n}_grams", (20 - n) / 100, 1) for n in range(5, 11)],
    ],
)
def test_gopher_ngram_limits(n: int, threshold: str, limit: float, occurrences: int) -> None:
    # An n-gram of two-letter words, twice; a top n-gram counts both, a duplicate the second.
    gram = " ".join(f"{i:02}" for i in range(n))
    filler = math.ceil(occurrences * 2 * n / limit) - 2 * 2 * n
    kept, dropped = f"{gram} {'x' * filler} {gram}", f"{gram} {'x' * (filler - 1)} {gram}"
    assert only(text.gopher_repetition, threshold, kept) is None
    reason = threshold.replace("max_", "gopher_")
    assert only(text.gopher_repetition, threshold, dropped) == reason


def test_what_stands_once_is_no_repetition() -> None:
    assert (
        text.gopher_repetition(prose("seven words that do not repeat themselves"))[0].as_py()
        is None
    )


def test_overlapping_ngrams_count_a_word_once() -> None:
    # Every word but the first is in a repeated 5-gram.
    assert text.gopher_repetition(
        prose("ha " * 10),
        max_top_2_gram=None,
        max_top_3_gram=None,
        max_top_4_gram=None,
        max_duplicate_5_grams=0.9,
    ).to_pylist() == ["gopher_duplicate_6_grams"]


@pytest.mark.parametrize(
    ("threshold", "kept", "dropped", "reason"),
    [
        ("lorem_ipsum", "Lorem, ipsum", "So: Lorem Ipsum dolor", "c4_lorem_ipsum"),
        ("curly_bracket", "a }", "if (a) { b }", "c4_curly_bracket"),
        ("max_word_length", "x" * 1000, "x" * 1001, "c4_word_too_long"),
        (
            "max_boilerplate_lines",
            rows((1, "We use cookies."), (1, "Enable JavaScript."), (8, "line")),
            rows((2, "We use cookies."), (1, "Enable JavaScript."), (7, "line")),
            "c4_too_many_boilerplate_lines",
        ),
        (
            "min_sentences",
            'It is 3.5 m. Is it? "Yes!" she said.\nA heading of words\nOne more line',
            "It is 3.5 m. Is it? She said.\nToo short\nA heading of words\nSee our privacy policy.",
            "c4_too_few_sentences",
        ),
    ],
)
def test_c4_limits(threshold: str, kept: str, dropped: str, reason: str) -> None:
    assert only(text.c4, threshold, kept) is None
    assert only(text.c4, threshold, dropped) == reason


def test_c4_counts_lines_of_three_words() -> None:
    five = rows((5, "Three words here."))
    assert text.c4(prose(five)).to_pylist() == [None]
    assert text.c4(prose(five), min_line_words=4).to_pylist() == ["c4_too_few_sentences"]


@pytest.mark.parametrize(
    ("threshold", "kept", "dropped", "reason"),
    [
        (
            "min_terminated_lines",
            rows((12, "Done."), (88, "menu")),
            rows((11, "Done."), (89, "menu")),
            "fineweb_too_few_terminated_lines",
        ),
        (
            "max_short_lines",
            rows((67, "x" * 30), (33, "x" * 31)),
            rows((68, "x" * 30), (32, "x" * 31)),
            "fineweb_too_many_short_lines",
        ),
        (
            "max_duplicate_line_characters",
            "\n".join(["x" * 98, "y", "y"]),
            "\n".join(["x" * 97, "y", "y"]),
            "fineweb_duplicate_line_characters",
        ),
        (
            "max_newlines_per_word",
            "w\nw\nw\nw" + " w" * 6,
            "w\nw\nw\nw\nw" + " w" * 5,
            "fineweb_too_many_newlines",
        ),
    ],
)
def test_fineweb_limits(threshold: str, kept: str, dropped: str, reason: str) -> None:
    assert only(text.fineweb, threshold, kept) is None
    assert only(text.fineweb, threshold, dropped) == reason


def test_fineweb_line_length_is_a_threshold() -> None:
    batch = prose("Twelve chars.\n" * 3)
    reason = "fineweb_too_many_short_lines"
    for length, expected in ((13, reason), (12, "fineweb_duplicate_line_characters")):
        assert text.fineweb(batch, short_line=length).to_pylist() == [expected]


def identified(*labels: tuple[str | None, float | None]) -> pa.Table:
    documents = [schema.document("test", None, [schema.text_part("x")]) for _ in labels]
    for document, (code, score) in zip(documents, labels, strict=True):
        document["language"] = code
        document["scores"] = [] if score is None else [("clip", 1.0), ("language", score)]
    return schema.documents(documents)


def test_language_keeps_what_is_sure() -> None:
    batch = identified(("en", 0.65), ("en", 0.6499), ("en", None), ("de", 0.99), (None, None))
    assert text.language(batch).to_pylist() == [
        None,
        "language_uncertain",
        "language_uncertain",
        "language_not_kept",
        "language_not_kept",
    ]
    assert text.language(batch, keep=["de", "en"], min_score=None).to_pylist() == [
        *[None] * 4,
        "language_not_kept",
    ]


def test_prose_passes_every_rule() -> None:
    for name in ("gopher_quality", "gopher_repetition", "c4", "fineweb"):
        assert text.FILTERS[name](prose(CLEAN)).to_pylist() == [None], name


@pytest.mark.parametrize("empty", ["", " \n\t ", "\u3000\n\n"])
def test_empty_text_gets_a_reason(empty: str) -> None:
    assert {name: rule(prose(empty))[0].as_py() for name, rule in text.FILTERS.items()} == {
        "gopher_quality": "gopher_too_few_words",
        "gopher_repetition": "gopher_no_words",
        "c4": "c4_too_few_sentences",
        "fineweb": "fineweb_too_few_terminated_lines",
        "language": "language_not_kept",
    }


def test_the_first_rule_that_holds_gives_the_reason() -> None:
    masks = np.array([[False, True, True], [True, True, False]])
    column = reasons(3, [(masks[0], "first"), (masks[1], "second")])
    assert column.to_pylist() == ["second", "first", "first"]
    assert column.type == pa.string()


def test_indic_words_are_not_cut_at_vowel_signs() -> None:
    assert text.split_words("«हिन्दी भाषा», जो") == ["हिन्दी", "भाषा", "जो"]


@settings(deadline=None)
@given(st.lists(st.lists(st.text(), max_size=3), max_size=4))
def test_any_unicode_gives_a_column_of_reasons(documents: list[list[str]]) -> None:
    batch = schema.documents(
        schema.document("test", None, [schema.text_part(part) for part in parts])
        for parts in documents
    )
    for rule in text.FILTERS.values():
        column = rule(batch)
        assert (len(column), column.type) == (len(documents), pa.string())


@settings(deadline=None)
@given(st.lists(st.sampled_from("abc"), max_size=30), st.integers(2, 12))
def test_equal_ngrams_have_equal_numbers(words: list[str], largest: int) -> None:
    found = dict(text.ngram_ids(words, largest))
    assert list(found) == list(range(2, min(largest, len(words)) + 1))
    for n, ids in found.items():
        grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        assert len(ids) == len(grams)
        assert len(set(zip(ids.tolist(), grams, strict=True))) == len(set(grams)) == len(set(ids))


def gram_share(words: list[str], n: int) -> float:
    """The share of characters in the top or in duplicate n-grams, n-gram by n-gram."""
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    (top, count), *_ = [*Counter(grams).most_common(1), ((), 0)]
    inside: set[int] = set()
    for i, gram in enumerate(grams):
        if gram in grams[:i] if n > 4 else count > 1 and gram == top:
            inside.update(range(i, i + n))
    return sum(len(words[i]) for i in inside) / sum(map(len, words))


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "ccc"]), min_size=1, max_size=30))
def test_gram_shares_are_those_of_counted_ngrams(words: list[str]) -> None:
    expected = [0.0, 0.0, *(gram_share(words, n) for n in range(2, 11))]
    assert text._gram_shares(words).tolist() == expected


def test_long_runs_take_linear_time() -> None:
    # A pattern that backtracked over these would not end within a test run.
    for run in ("a b " + "." * 200_000 + "x", "\n" * 200_000 + "x", "a" * 200_000, "é " * 100_000):
        for rule in text.FILTERS.values():
            assert len(rule(prose(run))) == 1
