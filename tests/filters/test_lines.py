"""Line edits: what goes, why, and what a text is afterwards."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters import lines
from filters.lines import EDITS, REASONS, c4, edit, refinedweb


@pytest.mark.parametrize(
    ("line", "left", "reason"),
    [
        ("A plain sentence of prose.", "A plain sentence of prose.", None),
        ("", "", None),
        ("   ", "   ", None),
        # Mainly uppercase is more than half of the characters, spaces too.
        ("BREAKING NEWS TODAY", None, "refinedweb_uppercase"),
        ("NASA and ESA meet", "NASA and ESA meet", None),
        ("ABcd", None, "refinedweb_too_few_words"),
        ("2024", None, "refinedweb_number"),
        ("12 34", "12 34", None),
        ("3 likes", None, "refinedweb_counter"),
        ("1.2K Shares", None, "refinedweb_counter"),
        ("• 1,024 comments", None, "refinedweb_counter"),
        ("3 likes and a dislike", "3 likes and a dislike", None),
        ("Introduction", None, "refinedweb_too_few_words"),
        ("Sign in to go on", "to go on", "refinedweb_navigation"),
        ("The whole story. Read more...", "The whole story.", "refinedweb_navigation"),
        ("Read More…", None, "refinedweb_navigation"),
        ("You have 3 items in cart today", "You have 3  today", "refinedweb_navigation"),
        ("Signing in takes long", "Signing in takes long", None),
        ("I like to read more", "I like to", "refinedweb_navigation"),
        ("He wants bread more", "He wants bread more", None),
        ("I like to read moreover this", "I like to read moreover this", None),
        (
            "A line of more than ten words in which you read more",
            "A line of more than ten words in which you read more",
            None,
        ),
    ],
)
def test_refinedweb(line: str, left: str | None, reason: str | None):
    assert refinedweb([line]) == [(left, reason)]


def test_refinedweb_thresholds_can_be_moved_and_turned_off():
    assert refinedweb(["HELLO you"], max_uppercase=0.6) == [("HELLO you", None)]
    assert refinedweb(["BREAKING NEWS"], max_uppercase=None) == [("BREAKING NEWS", None)]
    assert refinedweb(["Word"], min_words=None) == [("Word", None)]
    assert refinedweb(["Read more"], short_line=None) == [("Read more", None)]
    assert refinedweb(["42 42", "3 likes"], counters=False)[1] == ("3 likes", None)
    assert refinedweb(["42"], numbers=False, min_words=1) == [("42", None)]
    assert refinedweb(["Weiter lesen hier"], starts=["weiter lesen"], ends=[], anywhere=[]) == [
        ("hier", "refinedweb_navigation")
    ]
    assert refinedweb(["Read more"], starts=[], ends=[], anywhere=[]) == [("Read more", None)]


@pytest.mark.parametrize(
    ("line", "left", "reason"),
    [
        ("  A plain sentence.  ", "A plain sentence.", None),
        ("", None, None),
        ("No punctuation here", None, "c4_not_terminated"),
        ("It goes on and on...", None, "c4_not_terminated"),
        ('He said "no more"', 'He said "no more"', None),
        ("Two words.", None, "c4_line_too_short"),
        ("Please enable JavaScript to go on.", None, "c4_javascript"),
        ("Read our Privacy Policy with care.", None, "c4_policy"),
        ("It is so. [1]", "It is so.", "c4_citation"),
        ("History[edit] is long[12].", "History is long.", "c4_citation"),
        ("It is " + "x" * 1001 + " so.", None, "c4_word_too_long"),
    ],
)
def test_c4(line: str, left: str | None, reason: str | None):
    assert c4([line]) == [(left, reason)]


def test_c4_thresholds_can_be_moved_and_turned_off():
    assert c4(["No punctuation here"], terminated=False) == [("No punctuation here", None)]
    assert c4(["It is just so."], min_words=5) == [(None, "c4_line_too_short")]
    assert c4(["It is [1] so."], citations=False) == [("It is [1] so.", None)]
    assert c4(["Uses cookies and JavaScript."], javascript=False, policies=False) == [
        ("Uses cookies and JavaScript.", None)
    ]


def test_words_that_go_are_counted_by_text_and_reason():
    edited = edit(
        ["One good line.\n\nMENU BAR\n\nAnother good one.", "3 likes", "Nothing to do."], refinedweb
    )
    assert edited.texts == ["One good line.\n\nAnother good one.", "", "Nothing to do."]
    assert edited.words.tolist() == [8, 2, 3]
    assert {k: v.tolist() for k, v in edited.removed.items() if v.any()} == {
        "refinedweb_uppercase": [2, 0, 0],
        "refinedweb_counter": [0, 2, 0],
    }


def test_a_phrase_that_goes_costs_its_words_only():
    edited = edit(["The whole story. Read more..."], refinedweb)
    assert edited.removed["refinedweb_navigation"].tolist() == [2]


def test_a_text_that_is_not_touched_keeps_every_byte():
    text = "\n\n One good line. \n\n\n\nAnother good line.\n"
    assert edit([text], refinedweb).texts == [text]


TEXTS = st.lists(
    st.lists(
        st.sampled_from(["A good line it is.", "MENU", "3 likes", "", "Read more", "So. [1]"]),
        max_size=6,
    ).map("\n".join)
    | st.text(max_size=40)
)


@pytest.mark.parametrize("name", EDITS)
@given(TEXTS)
def test_every_word_is_accounted_for(name: str, texts: list[str]):
    edited = edit(texts, EDITS[name])
    assert tuple(edited.removed) == REASONS[name]
    for i, (before, after) in enumerate(zip(texts, edited.texts, strict=True)):
        gone = sum(int(counts[i]) for counts in edited.removed.values())
        assert len(before.split()) == len(after.split()) + gone == edited.words[i]


@pytest.mark.parametrize("name", EDITS)
@given(TEXTS, TEXTS)
def test_an_edit_does_not_depend_on_the_other_texts(name: str, one: list[str], two: list[str]):
    alone = edit(one, EDITS[name]).texts + edit(two, EDITS[name]).texts
    assert edit(one + two, EDITS[name]).texts == alone


@given(st.text(alphabet="Aa1. \n[]", max_size=60))
def test_c4_keeps_what_the_published_line_rules_keep(text: str):
    """Against the rules written down one by one, as a loop over the lines."""
    kept = []
    for line in text.split("\n"):
        rest = re.sub(r"\[\d*\]", "", line.strip()).strip()
        if rest.endswith(".") and not rest.endswith("...") and len(line.split()) >= 3:
            kept.append(rest)
    assert edit([text], c4).texts == ["\n".join(kept)]


def test_long_lines_take_linear_time():
    for line in ("1" * 200_000, "1," * 100_000 + " like", "read more " * 50_000, "[1" * 100_000):
        for apply in EDITS.values():
            apply([line])


def test_phrases_are_lower_case_and_short():
    """They are matched in any case, in lines of ten words at most."""
    for phrase in (*lines.STARTS, *lines.ENDS, *lines.ANYWHERE):
        assert phrase == phrase.lower() and len(phrase.split()) <= 10
