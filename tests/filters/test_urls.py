import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filters.rules import reasons
from filters.urls import block_lists, url_blocks

# A short example of what a user's files hold, one entry a line.
LISTS = block_lists(
    domains=[
        "# gambling",
        "casino.example",
        "192.0.2.7",
        "",
        "ads.news.example",
        "https://www.Spam.example/",
    ],
    urls=["http://www.blog.example/bad-page/", "shop.example/item?id=7", "http://"],
    words=["xxx", "No-Deposit"],
    soft_words=["free", "bonus", "win"],
    substrings=["viagra", "x-rated", "ab"],
)


def reason(url: str | None) -> str | None:
    (found,) = reasons(url_blocks(pa.array([url], pa.string()), LISTS)).to_pylist()
    return found


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("https://casino.example/", "url_blocked_domain"),
        ("https://user@WWW.de.Casino.Example:8080/play", "url_blocked_domain"),
        ("http://ads.news.example?x", "url_blocked_domain"),
        ("http://spam.example#top", "url_blocked_domain"),
        ("http://news.example/", None),
        ("http://192.0.2.7/", "url_blocked_domain"),
        ("http://mycasino.example/", None),
        ("http://casino.example.org/", None),
        ("https://blog.example/bad-page", "url_blocked"),
        ("http://blog.example/bad-page#comments", "url_blocked"),
        ("http://blog.example/bad-page/2", None),
        ("http://shop.example/item?id=7", "url_blocked"),
        ("http://shop.example/item?id=8", None),
        ("http://a.example/XXX-movies", "url_banned_word"),
        ("http://a.example/nodeposit/", "url_banned_word"),
        ("http://a.example/xxxx", None),
        ("http://a.example/free-entry", None),
        ("http://free.example/free", None),
        ("http://free.example/bonus", "url_soft_banned_words"),
        ("http://a.example/best_vi-agras.html", "url_banned_substring"),
        ("http://a.example/xratedstuff", "url_banned_substring"),
        ("http://a.example/cab", "url_banned_substring"),
        ("not a url", None),
        (None, None),
        ("", None),
    ],
)
def test_reasons(url, wanted):
    assert reason(url) == wanted


def test_the_number_of_soft_words_is_a_bound():
    urls = pa.array(["http://a.example/free-bonus-win"])
    for wanted, blocked in ((3, True), (4, False)):
        lists = block_lists(soft_words=["free", "bonus", "win"], min_soft_words=wanted)
        rules = {rule.reason: rule for rule in url_blocks(urls, lists)}
        soft = rules["url_soft_banned_words"]
        assert soft.values.tolist() == [3] and soft.max == wanted - 1
        assert soft.drops().tolist() == [blocked]


def test_an_entry_without_letters_is_refused():
    # Normalised to nothing it would be in every URL.
    with pytest.raises(ValueError, match="'казино' has no ASCII letter"):
        block_lists(words=["казино"])


def test_empty_lists_block_nothing():
    assert not block_lists(domains=["# none"], substrings=[" "])
    assert block_lists(words=["x"])


WORDS = st.text(alphabet="abc", min_size=1, max_size=5)


@given(st.lists(WORDS, max_size=8), st.text(alphabet="abc-/.", max_size=30))
def test_substrings_are_found_wherever_they_are(substrings, url):
    rules = url_blocks(pa.array([url]), block_lists(substrings=substrings))
    text = "".join(character for character in url if character.isalnum())
    assert bool(rules[-1].drops()[0]) == any(entry in text for entry in substrings)


@given(st.lists(st.text() | st.none(), max_size=20))
def test_no_url_raises_and_none_depends_on_its_batch(urls):
    together = reasons(url_blocks(pa.array(urls, pa.string()), LISTS)).to_pylist()
    assert together == [reason(url) for url in urls]
