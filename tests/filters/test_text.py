"""Prose: one tiny document on either side of each published threshold."""

import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import text
from filters.prose import Prose
from filters.rules import Rule, reasons
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


def only(rule: Callable[..., list[Rule]], threshold: str, value: str) -> str | None:
    """The reason for one text with every threshold but one turned off."""
    off: dict[str, Any] = {}
    for name, parameter in inspect.signature(rule).parameters.items():
        if isinstance(parameter.default, bool):
            off[name] = False
        elif "None" in str(parameter.annotation):
            off[name] = None
    off.pop(threshold)
    (reason,) = reasons(rule(prose(value), **off)).to_pylist()
    assert reason is None or isinstance(reason, str)
    return reason


def rows(*counts: tuple[int, str]) -> str:
    """Lines made by repeating patterns; `{}` in a pattern numbers its lines."""
    return "\n".join(line.format(i) for count, line in counts for i in range(count))


@pytest.mark.parametrize(
    ("threshold", "kept", "dropped", "reason"),
    [
        ("min_words", "word " * 50, "word " * 49 + "-- !", "gopher_too_few_words"),
        ("max_words", "a " * 100_000 + "!", "a " * 100_001, "gopher_too_many_words"),
        ("min_mean_word_length", "one, two.", "one, " * 19 + "to!", "gopher_words_too_short"),
        (
            "max_mean_word_length",
            "abcdefghij",
            "abcdefghij " * 9 + "abcdefghijk",
            "gopher_words_too_long",
        ),
        (
            "max_hashes_per_word",
            "# " * 10 + "w " * 90,
            "# " * 11 + "w " * 89,
            "gopher_too_many_hashes",
        ),
        (
            "max_ellipses_per_word",
            "w … " + "w " * 8,
            "w … ... " + "w " * 7,
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
            "a1 b c d e f g h 9.",
            "a1 b c d e f g h 9!?",
            "gopher_too_few_alphabetic_words",
        ),
        ("min_stop_words", "the end of", "the end, the start Of", "gopher_too_few_stop_words"),
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
            "\n".join(["x" * 58, "y" * 20, "y" * 20]),
            "\n".join(["x" * 57, "y" * 20, "y" * 20]),
            "gopher_duplicate_line_characters",
        ),
        (
            "max_duplicate_paragraph_characters",
            "\n\n\n".join(["x" * 53, "y" * 20, "y" * 20]) + " ",
            "\n\n\n".join(["x" * 53, "y" * 20, "y" * 20]),
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
    ("n", "threshold", "limit", "counted"),
    [
        # An n-gram of words of one letter, twice: a top n-gram counts both with the spaces in it, a
        # duplicate the second without them.
        (2, "max_top_2_gram", 0.20, 6),
        (3, "max_top_3_gram", 0.18, 10),
        (4, "max_top_4_gram", 0.16, 14),
        *[(n, f"max_duplicate_{n}_grams", (20 - n) / 100, n) for n in range(5, 11)],
    ],
)
def test_gopher_ngram_limits(n: int, threshold: str, limit: float, counted: int) -> None:
    gram = " ".join("abcdefghij"[:n])
    filler = math.ceil(counted / limit) - 2 * len(gram) - 2
    kept, dropped = f"{gram} {'x' * filler} {gram}", f"{gram} {'x' * (filler - 1)} {gram}"
    assert only(text.gopher_repetition, threshold, kept) is None
    reason = threshold.replace("max_", "gopher_")
    assert only(text.gopher_repetition, threshold, dropped) == reason


def test_the_top_ngram_may_stand_once() -> None:
    few = "six words of this one text"
    assert reasons(text.gopher_repetition(prose(few))).to_pylist() == ["gopher_top_2_gram"]


def test_of_overlapping_duplicates_the_first_counts() -> None:
    # "b a b a b" at the second word is new, at the third the first 5-gram comes again.
    (share,) = [
        rule.values[0]
        for rule in text.gopher_repetition(prose("a b a b a b a b c"))
        if rule.reason == "gopher_duplicate_5_grams"
    ]
    assert share == 5 / 17


@pytest.mark.parametrize(
    ("threshold", "kept", "dropped", "reason"),
    [
        ("lorem_ipsum", "So: Lorem, ipsum", "So: Lorem Ipsum dolor", "c4_lorem_ipsum"),
        ("lorem_ipsum", "Lorem ipsum", "A javascript lorem ipsum", "c4_lorem_ipsum"),
        ("curly_bracket", "if a b }", "if (a) { b }", "c4_curly_bracket"),
        ("curly_bracket", "if (a) { // JavaScript", "our cookie policy {", "c4_curly_bracket"),
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


def sentences(value: str, **thresholds: int) -> float:
    """The number of sentences that C4 counts in a text."""
    rules = {rule.reason: rule for rule in text.c4(prose(value), **thresholds)}
    return float(rules["c4_too_few_sentences"].values[0])


@pytest.mark.parametrize(
    ("value", "count"),
    [
        ("One here is. Two? Three! Four", 4),
        ("No full stop\nbut two lines here", 2),
        ("Too short.\nThree words here.", 1),
        ("What is it?! It is 3.5 m ... long.", 2),
        ("Mr. Smith of the U.S. agrees.", 1),
        ("It was found.[12][edit] Then it was lost.", 2),
        ("Then we use cookies.\nEnable JavaScript for this.\nOur Privacy Policy is here.", 0),
        ("It stands beside a " + "x" * 1001 + " here.", 0),
        ("", 0),
    ],
)
def test_c4_counts_sentences_in_the_lines_that_it_would_keep(value: str, count: int) -> None:
    assert sentences(value) == count


def test_c4_lines_have_thresholds() -> None:
    five = rows((5, "Three words here."))
    assert (sentences(five), sentences(five, min_line_words=4)) == (5, 0)
    assert (sentences(five, max_word_length=5), sentences(five, max_word_length=4)) == (5, 0)


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
        assert reasons(text.fineweb(batch, short_line=length)).to_pylist() == [expected]


def identified(*labels: tuple[str | None, float | None]) -> pa.Table:
    documents = [schema.document("test", None, [schema.text_part("x")]) for _ in labels]
    for document, (code, score) in zip(documents, labels, strict=True):
        document["language"] = code
        document["scores"] = [] if score is None else [("clip", 1.0), ("language", score)]
    return schema.documents(documents)


def test_language_keeps_what_is_sure() -> None:
    batch = identified(("en", 0.65), ("en", 0.6499), ("en", None), ("de", 0.99), (None, None))
    assert reasons(text.language(batch)).to_pylist() == [
        None,
        "language_uncertain",
        "language_uncertain",
        "language_not_kept",
        "language_not_kept",
    ]
    assert reasons(text.language(batch, keep=["de", "en"], min_score=None)).to_pylist() == [
        *[None] * 4,
        "language_not_kept",
    ]


def test_prose_passes_every_rule() -> None:
    for name in ("gopher_quality", "gopher_repetition", "c4", "fineweb"):
        assert reasons(text.FILTERS[name](prose(CLEAN))).to_pylist() == [None], name


@pytest.mark.parametrize("empty", ["", " \n\t ", "\u3000\n\n"])
def test_empty_text_gets_a_reason(empty: str) -> None:
    assert {
        name: reasons(rule(prose(empty)))[0].as_py() for name, rule in text.FILTERS.items()
    } == {
        "gopher_quality": "gopher_too_few_words",
        "gopher_repetition": "gopher_no_words",
        "c4": "c4_too_few_sentences",
        "length": None,
        "fineweb": "fineweb_too_few_terminated_lines",
        "language": "language_not_kept",
    }


@given(st.lists(st.lists(st.text(), max_size=3), max_size=4))
def test_any_unicode_gives_a_column_of_reasons(documents: list[list[str]]) -> None:
    batch = schema.documents(
        schema.document("test", None, [schema.text_part(part) for part in parts])
        for parts in documents
    )
    for rule in text.FILTERS.values():
        column = reasons(rule(batch))
        assert (len(column), column.type) == (len(documents), pa.string())


def top_share(words: list[str], n: int) -> float:
    """The share of characters in the top n-gram, n-gram by n-gram."""
    grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
    return max((len(gram) * count for gram, count in grams.most_common(1)), default=0)


def duplicate_share(words: list[str], n: int) -> float:
    """The characters in duplicate n-grams, n-gram by n-gram."""
    seen, characters, i = set(), 0, 0
    while i <= len(words) - n:
        gram = tuple(words[i : i + n])
        characters += len("".join(gram)) * (gram in seen)
        i += n if gram in seen else 1
        seen.add(gram)
    return characters


WORDS = st.lists(st.sampled_from(["a", "bb", "ccc", "."]), max_size=30)


@given(st.lists(WORDS, max_size=5))
def test_gram_shares_are_those_of_counted_ngrams(documents: list[list[str]]) -> None:
    texts = [" ".join(words) for words in documents]
    rules = {rule.reason: rule.values.tolist() for rule in text.gopher_repetition(prose(*texts))}
    for names, measure in (
        ({n: f"gopher_top_{n}_gram" for n in (2, 3, 4)}, top_share),
        ({n: f"gopher_duplicate_{n}_grams" for n in range(5, 11)}, duplicate_share),
    ):
        for n, name in names.items():
            assert rules[name] == [
                measure(words, n) / max(1, len(value))
                for words, value in zip(documents, texts, strict=True)
            ]


LINES = st.lists(
    st.sampled_from(["It is. So", "a {b} c", "We use cookies, do", "x[1]. Y z", "• it…", "", "-"])
)


@given(st.lists(LINES.map("\n".join), max_size=6), st.permutations(range(6)), st.integers(0, 6))
def test_measures_do_not_depend_on_the_batch(texts: list[str], order: list[int], size: int) -> None:
    rows = np.array([i for i in order if i < len(texts)][:size], int)
    batch = prose(*texts)
    view = Prose(batch)
    for rule in text.FILTERS.values():
        whole = rule(view)
        for part in (rule(batch.take(pa.array(rows, pa.int64()))), rule(view.take(rows))):
            for some, every in zip(part, whole, strict=True):
                assert some.values.tolist() == every.values[rows].tolist(), some.reason


def test_long_runs_take_linear_time() -> None:
    # A pattern that backtracked over these would not end within a test run.
    for run in ("a b " + "." * 200_000 + "x", "\n" * 200_000 + "x", "a" * 200_000, "é " * 100_000):
        for rule in text.FILTERS.values():
            assert len(reasons(rule(prose(run)))) == 1


def test_length() -> None:
    batch = prose("One, two.", "One two three!")
    for limits, expected in (
        ({"min_words": 3}, ["length_too_few_words", None]),
        ({"max_words": 2}, [None, "length_too_many_words"]),
        ({"min_characters": 10}, ["length_too_few_characters", None]),
        ({"max_characters": 9}, [None, "length_too_many_characters"]),
        ({"min_words": 2, "max_words": 3, "min_characters": 9, "max_characters": 14}, [None] * 2),
        ({}, [None, None]),
    ):
        assert reasons(text.length(batch, **limits)).to_pylist() == expected
