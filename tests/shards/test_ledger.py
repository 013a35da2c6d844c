"""The account: what went in comes out or is named, whichever order it came in."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards import ledger, schema
from shards.ledger import Counts, LedgerError
from shards.storage import read_table
from tests.shards.stages import finish, folder_of


def drop(identity: str, reason: str = "too_short", **about: Any) -> dict[str, Any]:
    row = dict.fromkeys(schema.DROP.names) | {"unit": "document", "kind": "dropped"}
    return row | {"id": identity, "reason": reason, "content": f"text of {identity}"} | about


def drops(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.DROP)


def pages(*texts: str) -> pa.Table:
    return schema.documents(
        schema.document("web", f"http://a.example/{i}", [schema.text_part(text)])
        for i, text in enumerate(texts)
    )


def test_read_is_kept_and_dropped_and_failed():
    rows = drops(drop("a"), drop("b", "too_long"), drop("c", "unreadable", kind="error"))
    counts = ledger.count({"document": 5}, {"document": 2}, rows)
    assert counts == Counts(
        {"document": 5},
        {"document": 2},
        {"document": {"too_long": 1, "too_short": 1}},
        {"document": {"unreadable": 1}},
    )
    assert counts.lost("document") == 3
    counts.check("text/filters")


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (Counts({"document": 3}, {"document": 2}), "3 documents read, but 2 kept and 0 lost"),
        (Counts({"document": 1}, {"document": 2}), "1 documents read, but 2 kept and 0 lost"),
        (
            Counts({"image": 2}, {"image": 1}, {"image": {"x": 1}}, {"image": {"y": 1}}),
            "2 images read, but 1 kept and 2 lost",
        ),
        (Counts(dropped={"image": {"x": 1}}), "0 images read, but 0 kept and 1 lost"),
    ],
)
def test_a_lost_or_invented_record_is_an_error_that_names_the_stage(counts: Counts, message: str):
    with pytest.raises(LedgerError, match=f"text/filters: {message}"):
        counts.check("text/filters")


sums = st.dictionaries(st.sampled_from(["document", "image"]), st.integers(0, 9))
by_reason = st.dictionaries(
    st.sampled_from(["document", "image"]),
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 9)),
)
parts_of_a_stage = st.lists(st.builds(Counts, sums, sums, by_reason, by_reason), max_size=5)


@given(parts_of_a_stage, st.randoms())
def test_a_total_is_the_sum_of_the_parts_in_any_order(parts: list[Counts], random: Any):
    whole = ledger.total(parts)
    for name in ("read", "kept"):
        for unit in ("document", "image"):
            assert getattr(whole, name).get(unit, 0) == sum(
                getattr(part, name).get(unit, 0) for part in parts
            )
    for name in ("dropped", "errors"):
        for unit in ("document", "image"):
            for reason in "abc":
                found = getattr(whole, name).get(unit, {}).get(reason, 0)
                assert found == sum(
                    getattr(part, name).get(unit, {}).get(reason, 0) for part in parts
                )
    shuffled = list(parts)
    random.shuffle(shuffled)
    assert ledger.total(shuffled) == whole


def test_a_row_says_what_was_dropped_and_shows_the_beginning_of_it():
    picture = schema.image_part("http://a.example/cat.jpg", "alt", sha256="0" * 64)
    pair = schema.document("captions", None, [picture, schema.text_part("A cat. " * 100)])
    row = ledger.drop_row(pair, "duplicate_image", detail="the keeper")
    assert row["id"] == pair["id"]
    assert (row["reason"], row["detail"]) == ("duplicate_image", "the keeper")
    assert row["url"] == "http://a.example/cat.jpg"  # a pair has no page
    assert row["image"] == "0" * 64
    assert row["content"] == ("A cat. " * 100)[:500]


def test_only_documents_with_a_reason_get_a_row():
    rows = ledger.drop_rows(pages("a", "b", "c"), [None, "short", "long"], details=["x", None, "3"])
    assert rows.schema.equals(schema.DROP)
    found = rows.select(["url", "reason", "detail", "content"]).to_pylist()
    assert found == [
        {"url": "http://a.example/1", "reason": "short", "detail": None, "content": "b"},
        {"url": "http://a.example/2", "reason": "long", "detail": "3", "content": "c"},
    ]


def sampled(folder: Path) -> dict[str, list[str]]:
    """The ids that kept their content, by reason."""
    found: dict[str, list[str]] = {}
    for row in read_table(folder / "ledger" / "part-00000.parquet").to_pylist():
        if row["content"] is not None:
            found.setdefault(row["reason"], []).append(row["id"])
    return {reason: sorted(ids) for reason, ids in found.items()}


def write(folder: Path, rows: list[dict[str, Any]], part: int = 0, kept: int = 0) -> None:
    output = pages(*["kept"] * kept)
    read = {"document": kept + len(rows)}
    ledger.write_part(folder, part, output, drops(*rows), read=read, kept={"document": kept})


@settings(max_examples=20)
@given(st.randoms())
def test_few_records_of_each_reason_keep_their_content_and_the_same_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, random: Any
):
    rows = [drop(f"{i:03d}", reason) for i in range(30) for reason in ("too_short", "too_long")]
    rows.append(drop("030", "rare"))
    in_order, shuffled = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    write(in_order, rows)
    random.shuffle(rows)
    write(shuffled, rows)
    found = sampled(in_order)
    assert sampled(shuffled) == found
    assert {reason: len(ids) for reason, ids in found.items()} == {
        "too_short": ledger.SAMPLES,
        "too_long": ledger.SAMPLES,
        "rare": 1,
    }
    smallest = sorted((f"{i:03d}" for i in range(30)), key=schema.digest)[: ledger.SAMPLES]
    assert found["too_short"] == sorted(smallest)
    assert (
        read_table(in_order / "ledger" / "part-00000.parquet").num_rows == 61
    )  # rows stay, only contents go


def test_counts_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Whatever is cut off before them, the part is written again."""
    written: list[str] = []

    def noting(function: Any) -> Any:
        def write(path: Path, value: Any) -> None:
            assert not ledger.part_is_done(tmp_path, 3)
            written.append(path.relative_to(tmp_path).as_posix())
            function(path, value)

        return write

    monkeypatch.setattr(ledger, "write_table", noting(ledger.write_table))
    monkeypatch.setattr(ledger, "write_json", noting(ledger.write_json))
    write(tmp_path, [drop("a")], part=3, kept=2)
    assert written == [
        "documents/part-00003.parquet",
        "ledger/part-00003.parquet",
        "counts/part-00003.json",
    ]
    assert ledger.part_is_done(tmp_path, 3)
    assert not ledger.part_is_done(tmp_path, 2)


def test_a_part_that_does_not_add_up_is_not_written(tmp_path: Path):
    folder = tmp_path / "filters" / "ffff"
    with pytest.raises(LedgerError, match=r"filters, part 3: 2 documents read, but 2 kept and 1"):
        ledger.write_part(
            folder,
            3,
            pages("a", "b"),
            drops(drop("c")),
            read={"document": 2},
            kept={"document": 2},
        )
    assert not list(tmp_path.rglob("*.parquet"))
    assert not ledger.part_is_done(folder, 3)


def test_a_stage_is_read_over_all_its_parts(tmp_path: Path):
    folder = folder_of(tmp_path, "text/filters")
    write(folder, [drop("a"), drop("b", "too_long")], part=0, kept=2)
    write(folder, [drop("c")], part=1)
    assert ledger.parts_done(folder) == {"part-00000", "part-00001"}
    finish(tmp_path, "text/filters")
    assert ledger.current(tmp_path / "text/filters") == folder
    counts = ledger.read_counts(folder)
    assert (counts.read, counts.kept) == ({"document": 5}, {"document": 2})
    assert counts.dropped == {"document": {"too_long": 1, "too_short": 2}}
    assert ledger.part_count(folder) == 2
    documents = [folder / "documents" / f"part-0000{part}.parquet" for part in (0, 1)]
    assert ledger.part_files(folder, "documents") == documents
    assert ledger.part_files(folder, "index") == []
    assert ledger.read_drops(folder, columns=["id"])["id"].to_pylist() == ["a", "b", "c"]


def test_a_stage_without_a_ledger_dropped_nothing(tmp_path: Path):
    finish(tmp_path, "shards")
    folder = folder_of(tmp_path, "shards")
    assert ledger.read_drops(folder).schema.equals(schema.DROP)
    assert ledger.read_drops(folder, columns=["id"]).num_rows == 0
    assert ledger.read_counts(folder) == Counts()


def test_only_the_current_output_of_a_stage_is_read(tmp_path: Path):
    finish(tmp_path, "text/filters")
    with pytest.raises(FileNotFoundError, match="is not the stage's current output"):
        ledger.read_counts(tmp_path / "text/filters" / "0123456789abcdef")


def test_finished_stages_stand_in_the_order_of_the_run(tmp_path: Path):
    names = ["text/read", "text/filters", "pack"]
    for name in names:
        finish(tmp_path, name)
    (tmp_path / "text/filters" / ledger.STAGE_FILE).unlink()
    assert ledger.about(tmp_path / "text/filters") is None
    left = ["text/read", "pack"]
    assert list(ledger.stage_folders(tmp_path)) == [(n, folder_of(tmp_path, n)) for n in left]
    with pytest.raises(FileNotFoundError):
        list(ledger.stage_folders(tmp_path / "text"))
