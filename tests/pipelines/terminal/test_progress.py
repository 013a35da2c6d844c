"""What a run says while it works and when a stage is done."""

import io
import threading
from pathlib import Path

import pytest
from rich.console import Console

from pipelines.terminal import progress
from pipelines.terminal.status import Reached, Status, begin, read_status
from shards import ledger, schema
from shards.ledger import Counts


def test_a_line_says_what_went_in_what_came_out_and_why():
    dropped = {"document": {"too_short": 5, "too_long": 700, "a": 2, "b": 2, "c": 1}}
    counts = Counts(
        {"document": 12_000}, {"document": 11_289}, dropped, {"document": {"unreadable": 1}}
    )
    assert progress.describe("text/filters", counts, {"microseconds": 3_141_590}) == (
        "text/filters                   12,000 →   11,289    3.1 s  "
        "too_long 700, too_short 5, a 2 and 3 more reasons"
    )


def test_up_to_three_reasons_are_all_there_are():
    counts = Counts({"document": 5}, {"document": 2}, {"document": {"b": 1, "a": 1, "c": 1}})
    assert progress.describe("x", counts, {}).endswith("  a 1, b 1, c 1")


def test_images_that_a_stage_took_out_are_not_mixed_up_with_its_documents():
    counts = Counts({"document": 2, "image": 9}, {"document": 2, "image": 1}, {"image": {"x": 8}})
    line = progress.describe("interleaved/download", counts, {"microseconds": 10**6})
    assert line.split() == ["interleaved/download", "2", "→", "2", "1.0", "s"]


def test_the_shards_count_sequences():
    counts = Counts({"sequence": 58}, {"sequence": 12}, {"sequence": {"surplus": 46}})
    line = progress.describe("shards", counts, {"microseconds": 10**6})
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


# While it works


@pytest.fixture
def begun(tmp_path: Path) -> Status:
    return begin(tmp_path, ["text/filters"], "local", {})


def reached(run: Path, parts: int) -> dict[str, Reached]:
    return {"text/filters": Reached(run / "text" / "filters" / "5d0c", parts)}


def write_part(run: Path, part: int, read: int) -> None:
    counts = {"document": read}
    nothing = schema.DROP.empty_table()
    folder = run / "text" / "filters" / "5d0c"
    ledger.write_part(folder, part, None, nothing, read=counts, kept=counts)


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=200)


def test_it_says_what_is_being_written(tmp_path: Path, begun: Status):
    with progress.watch(Console(quiet=True), tmp_path, begun, reached(tmp_path, 3)):
        status = read_status(tmp_path)
        assert status is not None
        assert dict(status.wave) == {"text/filters": ["5d0c", 3]}
        assert (status.started, status.state) == (begun.started, "running")


def test_it_says_that_it_lives(tmp_path: Path, begun: Status, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.01)
    beats: list[Status] = []
    beaten = threading.Event()

    def tell(run: Path, status: Status) -> Status:
        beats.append(status)
        if len(beats) > 3:
            beaten.set()
        return status

    monkeypatch.setattr(progress, "tell", tell)
    with progress.watch(Console(quiet=True), tmp_path, begun, reached(tmp_path, 3)):
        assert beaten.wait(30)
    assert {tuple(beat.wave) for beat in beats} == {("text/filters",)}


def test_it_lives_on_when_the_store_is_away_for_a_while(
    tmp_path: Path, begun: Status, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.01)
    replies = iter([begun, ConnectionError("s3://b/run/status.json: refused"), TimeoutError("x")])
    back = threading.Event()

    def tell(run: Path, status: Status) -> Status:
        reply = next(replies, None)
        if isinstance(reply, Exception):
            raise reply
        if reply is None:
            back.set()
        return status

    monkeypatch.setattr(progress, "tell", tell)
    with progress.watch(Console(quiet=True), tmp_path, begun, reached(tmp_path, 3)):
        assert back.wait(30)


def test_bars_move_with_the_parts_and_count_their_records(tmp_path: Path):
    stages = reached(tmp_path, 3)
    with progress.bars(terminal()) as shown:
        bars = progress._Bars(shown, stages)
        bars.update()
        whole, filters = shown.tasks
        assert (whole.completed, whole.total, filters.visible) == (0, 3, False)
        write_part(tmp_path, 0, 1200)
        write_part(tmp_path, 2, 34)
        bars.update()
        assert (whole.completed, filters.completed, filters.total) == (2, 2, 3)
        assert filters.visible
        assert filters.fields["unit"].startswith("parts, 1,234 documents, ")
        write_part(tmp_path, 1, 1)
        bars.update()
        assert (whole.completed, filters.visible) == (3, False)


def test_the_bar_of_a_download_counts_urls_until_its_first_part_is_written(tmp_path: Path):
    stages = reached(tmp_path, 3)
    folder = tmp_path / "text" / "filters" / "5d0c" / "fetching"
    folder.mkdir(parents=True)
    (folder / "host-00000").write_text("20 100")
    (folder / "host-00001").write_text("5 5")
    with progress.bars(terminal()) as shown:
        bars = progress._Bars(shown, stages)
        bars.update()
        _, download = shown.tasks
        assert (download.completed, download.total, download.fields["unit"]) == (25, 105, "URLs")
        write_part(tmp_path, 0, 10)
        bars.update()
        assert (download.completed, download.total) == (1, 3)


def test_bars_are_left_out_where_there_is_no_terminal(
    tmp_path: Path, begun: Status, capsys: pytest.CaptureFixture[str]
):
    with progress.watch(Console(), tmp_path, begun, reached(tmp_path, 3)):
        pass
    assert capsys.readouterr().out.strip() == ""


def test_an_error_in_the_block_ends_the_watch(tmp_path: Path, begun: Status):
    threads = threading.active_count()
    with (
        pytest.raises(ZeroDivisionError),
        progress.watch(Console(quiet=True), tmp_path, begun, reached(tmp_path, 3)),
    ):
        _ = 1 / 0
    assert threading.active_count() == threads
