"""What a run says while it works and when a stage is done."""

from pathlib import Path

import pytest
from rich.console import Console

from pipelines import progress
from shards.ledger import Counts


def test_a_line_says_what_went_in_what_came_out_and_why():
    dropped = {"document": {"too_short": 5, "too_long": 700, "a": 2, "b": 2, "c": 1}}
    counts = Counts(
        {"document": 12_000}, {"document": 11_289}, dropped, {"document": {"unreadable": 1}}
    )
    assert progress.describe("text/filters", counts, 3.14159) == (
        "text/filters                   12,000 →   11,289    3.1 s  "
        "too_long 700, too_short 5, a 2 and 3 more reasons"
    )


def test_up_to_three_reasons_are_all_there_are():
    counts = Counts({"document": 5}, {"document": 2}, {"document": {"b": 1, "a": 1, "c": 1}})
    assert progress.describe("x", counts, 0).endswith("  a 1, b 1, c 1")


def test_images_that_a_stage_took_out_are_not_mixed_up_with_its_documents():
    counts = Counts({"document": 2, "image": 9}, {"document": 2, "image": 1}, {"image": {"x": 8}})
    line = progress.describe("interleaved/download", counts, 1)
    assert line.split() == ["interleaved/download", "2", "→", "2", "1.0", "s"]


def test_the_shards_count_sequences():
    counts = Counts({"sequence": 58}, {"sequence": 12}, {"sequence": {"surplus": 46}})
    line = progress.describe("shards", counts, 1)
    assert line.split() == ["shards", "58", "→", "12", "1.0", "s", "surplus", "46"]


@pytest.mark.parametrize(
    ("counts", "warning"),
    [
        (Counts({"document": 3}, {"document": 0}, {"document": {"x": 3}}), "kept nothing"),
        (Counts({"document": 3}, {"document": 3}), "dropped nothing"),
        (Counts({"document": 3}, {"document": 2}, {"document": {"x": 1}}), None),
        (Counts({"document": 3}, {"document": 2}, {}, {"document": {"x": 1}}), None),
        (
            Counts({"document": 3, "image": 4}, {"document": 3, "image": 3}, {"image": {"x": 1}}),
            None,
        ),
        (Counts({"document": 0}, {"document": 0}), None),
    ],
)
def test_a_stage_that_kept_all_or_nothing_is_warned_of(counts: Counts, warning: str | None):
    said = progress.warning("text/filters", counts)
    assert said is None if warning is None else str(said).startswith(f"text/filters {warning}: ")


def test_a_stage_is_as_far_as_its_counts(tmp_path: Path):
    assert progress._done(tmp_path, 7) == (0, 7, "parts")
    (tmp_path / "counts").mkdir()
    for part in range(3):
        (tmp_path / "counts" / f"part-0000{part}.json").touch()
    assert progress._done(tmp_path, 7) == (3, 7, "parts")


def test_a_download_counts_urls_until_its_first_part_is_written(tmp_path: Path):
    (tmp_path / "fetching").mkdir()
    (tmp_path / "fetching" / "host-00000").write_text("20 100")
    (tmp_path / "fetching" / "host-00001").write_text("5 5")
    assert progress._done(tmp_path, 7) == (25, 105, "URLs")
    (tmp_path / "counts").mkdir()
    (tmp_path / "counts" / "part-00000.json").touch()
    assert progress._done(tmp_path, 7) == (1, 7, "parts")


def test_bars_are_left_out_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    with progress.watch(Console(), {"text/filters": (tmp_path, 3)}):
        pass
    assert capsys.readouterr().out.strip() == ""


def test_an_error_in_the_block_ends_the_watch(tmp_path: Path):
    with (
        pytest.raises(ZeroDivisionError),
        progress.watch(Console(quiet=True), {"text/filters": (tmp_path, 3)}),
    ):
        _ = 1 / 0
