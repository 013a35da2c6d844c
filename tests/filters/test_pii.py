"""Masking: what is personal goes, what only looks like it stays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filters import pii


@pytest.mark.parametrize(
    ("text", "masked", "count"),
    [
        ("Write to jane.doe+news@mail.example.co.uk.", f"Write to {pii.EMAIL}.", 1),
        ("<a href='mailto:José@bücher.de'>", f"<a href='mailto:{pii.EMAIL}'>", 1),
        ("请写信到jane@web.cn。", f"请写信到{pii.EMAIL}。", 1),
        ("a@b.org,c@d.org", f"{pii.EMAIL},{pii.EMAIL}", 2),
        ("from 8.8.4.4:53, then", f"from {pii.IPV4}:53, then", 1),
        ("It was 93.184.216.34.", f"It was {pii.IPV4}.", 1),
        ("http://[2606:4700::6810:85e5]/", f"http://[{pii.IPV6}]/", 1),
        ("2001:4860:4860:0:0:0:0:8888: up", f"{pii.IPV6}: up", 1),
        ("host 2600:: answers", f"host {pii.IPV6} answers", 1),
        ("::ffff:8.8.4.4", f"::ffff:{pii.IPV4}", 1),
        ("me@home.org at 1.1.1.1", f"{pii.EMAIL} at {pii.IPV4}", 2),
    ],
)
def test_personal_addresses_are_masked(text: str, masked: str, count: int) -> None:
    texts, counts = pii.mask([text])
    assert (texts, counts.tolist()) == ([masked], [count])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "@media print, meet me @ noon, user@localhost",
        "private 192.168.1.1, 10.0.0.1, 127.0.0.1, 169.254.0.1 and 100.64.0.1",
        "multicast 224.0.0.1, documentation 198.51.100.7, broadcast 255.255.255.255",
        "version v1.2.3.4, 1.2.3.4.5, 999.8.8.8, 08.8.8.8 and 3.14",
        "fe80::1, ::1, fd00::1, ff02::1, 2001:db8::7",
        "std::vector, A::B, dead::beef, 12:30:45, 2024:10:11, 2001:zz",
        f"{pii.EMAIL} {pii.IPV4} {pii.IPV6}",
    ],
)
def test_other_text_stays(text: str) -> None:
    texts, counts = pii.mask([text])
    assert (texts, counts.tolist()) == ([text], [0])


def test_counts_are_per_text() -> None:
    texts, counts = pii.mask(["", "a@b.org", "c@d.org 8.8.4.4"])
    assert texts == ["", pii.EMAIL, f"{pii.EMAIL} {pii.IPV4}"]
    assert counts.tolist() == [0, 1, 2]
    assert counts.dtype == np.int32


@settings(deadline=None)
@given(
    st.lists(st.text(alphabet=st.one_of(st.characters(codec="utf-8"), st.sampled_from("a1:.@"))))
)
def test_any_unicode_is_masked_or_left(texts: list[str]) -> None:
    masked, counts = pii.mask(texts)
    assert len(masked) == len(counts) == len(texts)
    for text, result, count in zip(texts, masked, counts, strict=True):
        assert (result == text) == (count == 0)


ADDRESSES = st.sampled_from(["a@b.org", "8.8.4.4", "2606:4700::1", "10.0.0.1", "::", "word", "é"])


@settings(deadline=None)
@given(st.lists(ADDRESSES), st.sampled_from([" ", "\n", ", ", "; "]))
def test_masking_twice_is_masking_once(addresses: list[str], separator: str) -> None:
    once, counts = pii.mask([separator.join(addresses)])
    assert counts[0] == sum(
        address in ("a@b.org", "8.8.4.4", "2606:4700::1") for address in addresses
    )
    again, none = pii.mask(once)
    assert (again, none[0]) == (once, 0)


def test_long_runs_take_linear_time() -> None:
    # A pattern that backtracked over these would not end within a test run.
    for run in (
        "a" * 200_000,
        "a." * 100_000,
        "a@" * 100_000,
        "a@" + "b." * 100_000,
        "2001:" * 40_000,
    ):
        assert pii.mask([run])[0] == [run]
