"""The arithmetic of benchmarks/scale.py, and the documents that it makes."""

import pytest
from scale import (
    COPIES,
    fit,
    net,
    occupied,
    original,
    planted,
    read_sample,
    shuffles,
    speed_ups,
)


def test_a_line_through_sizes_gives_what_is_fixed_and_what_a_document_costs() -> None:
    fixed, slope = fit([100, 300], [7.0, 11.0])

    assert (fixed, slope) == (pytest.approx(5.0), pytest.approx(0.02))
    assert fit([200], [8.0]) == (0.0, 0.04)


@pytest.mark.parametrize(
    ("places", "rows", "expected"),
    [(1, 50, 1), (1000, 1, 1), (2, 2, 1.5), (1024, 10**6, 1024), (10**5, 10**4, 9516.3)],
)
def test_rows_spread_by_hash_leave_places_empty(places: int, rows: int, expected: float) -> None:
    assert occupied(places, rows) == pytest.approx(expected, rel=1e-4)


def test_a_speed_up_counts_neither_start_up_nor_jobs_that_are_mostly_start_up() -> None:
    assert net(30.0, 10.0) == 20.0
    assert net(19.0, 10.0) is None

    one, two = {100: 19.0, 1000: 110.0}, {100: 15.0, 1000: 62.0}
    ratios = speed_ups("job", one, two, 10.0, 12.0)

    assert ratios == {"job_1000_speedup_ratio": 2.0, "job_slope_speedup_ratio": 1.936}


def test_a_shuffle_has_no_more_pieces_than_parts_times_partitions() -> None:
    ((_, pieces),) = shuffles("captions/dedupe", 1e9, 10_000, lost=0, keys=15)
    (_, keyed), *others = shuffles("text/dedupe", 1e9, 10_000, lost=0, keys=15)

    assert pieces == pytest.approx(1e5 * 4096 + 2 * 1e5)  # and two a part that pass through
    assert keyed == pytest.approx(1e5 * 4096)
    assert sum(count for _, count in others) == 1e5  # nothing is linked; each part hears of it
    assert shuffles("text/filters", 1e9, 10_000, lost=0, keys=1) == []


def test_documents_differ_but_for_the_copies_that_were_planted() -> None:
    sample, numbers = read_sample(), range(2000)
    pages = {sample.page(number) for number in numbers}
    pairs = [sample.caption(number) for number in numbers]
    shown = {(url.split("/", 3)[3].split("?")[0], caption) for url, caption in pairs}

    assert len(pages) == len(shown) == len(numbers) - planted(len(numbers)) == 1800
    assert len({url for url, _ in pairs}) == len(numbers)
    assert all(original(original(n)) == original(n) <= n for n in numbers)
    assert [n for n in range(3 * COPIES) if original(n) != n] == [9, 19, 29]
