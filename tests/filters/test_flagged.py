"""Flagged words: whole words and phrases, as a share of all words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.flagged import ENGLISH, flagged_share

WORDS = ["bad", "very bad", "naughty phrase here"]


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("all is good", 0.0),
        ("this is bad", 1 / 3),
        ("BAD!", 1.0),
        ("badly badger not-bad", 1 / 4),
        ("that is very bad", 2 / 4),  # the longer entry counts, once
        ("very very bad", 2 / 3),
        ("naughty phrase", 0.0),
        ("a naughty,\nphrase here", 3 / 4),
        ("schlecht 坏 плохо", 0.0),
    ],
)
def test_share_of_words(text: str, share: float):
    assert flagged_share([text], WORDS).tolist() == [pytest.approx(share)]


def test_words_of_any_script_and_case():
    assert flagged_share(["Eine SCHÖNE Weiße"], ["schöne", "weiße"]).tolist() == [2 / 3]


def test_an_empty_list_flags_nothing():
    assert flagged_share(["bad"], []).tolist() == [0.0]
    assert flagged_share(["bad"], ["", "..."]).tolist() == [0.0]


def test_the_short_list_flags_what_is_coarse_and_no_prose():
    prose = "Shitake mushrooms, Scunthorpe, a cocktail in Essex and the tit, a bird."
    assert flagged_share(["Free porn and sex cams", prose]).tolist() == [3 / 5, 0.0]
    assert len(set(ENGLISH)) == len(ENGLISH)


@given(
    st.lists(st.sampled_from(["bad", "very", "good", "x"])),
    st.lists(st.sampled_from(["bad", "very bad", "good good", "very x good"]), max_size=3),
)
def test_words_are_covered_from_the_left_longest_first(text: list[str], entries: list[str]):
    rest, flagged = list(text), 0
    while rest:
        fits = [e.split() for e in entries if rest[: len(e.split())] == e.split()]
        longest = max(map(len, fits), default=0)
        flagged += longest
        rest = rest[longest or 1 :]
    assert flagged_share([" ".join(text)], entries)[0] == flagged / max(len(text), 1)
