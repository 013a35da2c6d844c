import hashlib
import json
import pickle
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import storage
from shards.stores.options import S3Options


def test_write_atomic_replaces_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    storage.write_atomic(path, b"one")
    storage.write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["a.bin"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with storage.atomic_path(path) as aside:
            assert aside.parent == tmp_path
            aside.write_text("half")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_copy_stays_when_the_original_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"whole")
    storage.copy(tmp_path / "a", tmp_path / "b" / "linked")

    def unlinkable(*_: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr("os.link", unlinkable)
    storage.copy(tmp_path / "a", tmp_path / "b" / "copied")
    (tmp_path / "a").unlink()
    assert {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()} == {
        "linked": b"whole",
        "copied": b"whole",
    }


def test_a_table_has_the_same_bytes_however_it_was_chunked(tmp_path: Path) -> None:
    values = [f"value {n} " * 300 if n % 9 else None for n in range(5000)]  # several pages
    whole = pa.table({"text": values, "lists": [[v, "end"] for v in values]})
    pieces = pa.concat_tables([whole.slice(n, 37) for n in range(0, 5000, 37)])
    shas = {
        storage.write_table(tmp_path / name, table, row_group_size=1024)
        for name, table in (("a", whole), ("b", pieces))
    }
    assert shas == {storage.sha256_file(tmp_path / "a")}
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert storage.read_table(tmp_path / "a").equals(whole)
    described = pq.ParquetFile(tmp_path / "a").metadata
    assert described.num_row_groups == 5
    assert described.row_group(0).column(0).compression == "ZSTD"


def test_an_empty_table_keeps_its_schema(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([], pa.int32())})
    storage.write_table(tmp_path / "a", table)
    assert storage.read_table(tmp_path / "a").equals(table)


def test_read_table_takes_columns_and_filters(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    storage.write_table(path, pa.table({"a": [1, 2, 3], "b": ["x", "y", "z"]}))
    assert storage.read_table(path).column_names == ["a", "b"]
    rows = storage.read_table(path, ["b"], filters=[("a", ">", 1)])
    assert rows.to_pylist() == [{"b": "y"}, {"b": "z"}]


def test_json_has_sorted_keys_and_a_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    storage.write_json(path, {"b": 1, "a": ["ü"]})
    assert path.read_text(encoding="utf-8") == '{\n "a": [\n  "ü"\n ],\n "b": 1\n}\n'
    assert storage.read_json(path) == json.loads(path.read_bytes())


def test_ranges_and_hashes(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(range(100)))
    reader = storage.RangeReader(path)
    assert reader.size == 100
    assert reader.read(10, 3) == bytes([10, 11, 12])
    assert reader.read(100, 0) == b""
    last = bytes(range(90, 100))
    assert reader.read_many([(90, 10), (0, 1), (90, 10)]) == [last, b"\0", last]
    assert storage.sha256_file(path) == hashlib.sha256(bytes(range(100))).hexdigest()
    with pytest.raises(EOFError, match=r"a\.bin ends at byte 100"):
        reader.read(98, 3)
    with pytest.raises(FileNotFoundError):
        storage.RangeReader(tmp_path / "none")


def test_a_hashing_writer_counts_bytes_and_not_items(tmp_path: Path) -> None:
    with (tmp_path / "a").open("wb") as file:
        out = storage.HashingWriter(file)
        out.write(b"ab")
        out.write(memoryview(bytes(16)).cast("Q"))
        assert out.tell() == 18
        assert out.sha256() == hashlib.sha256(b"ab" + bytes(16)).hexdigest()
    with pytest.raises(TypeError):
        pickle.dumps(out)


@pytest.fixture(scope="module")
def forty_rows(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The same forty rows in files of different row groups."""
    folder = tmp_path_factory.mktemp("rows")
    table = pa.table({"n": range(40), "lists": [["x"] * (n % 3) for n in range(40)]})
    files = {size: folder / f"{size}.parquet" for size in (1, 7, 8, 40, 100)}
    for size, path in files.items():
        storage.write_table(path, table, row_group_size=size)
    return files


@given(st.sampled_from([1, 7, 8, 40, 100]), st.integers(0, 45), st.integers(0, 45))
def test_rows_are_those_of_the_whole_table(
    forty_rows: dict[int, Path], size: int, first: int, count: int
) -> None:
    path = forty_rows[size]
    expected = storage.read_table(path).slice(first, count)
    assert storage.read_rows(path, first, count).equals(expected)


def test_rows_are_read_from_the_row_groups_that_hold_them(
    forty_rows: dict[int, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[list[int]] = []
    groups = pq.ParquetFile.read_row_groups

    def noting(file: pq.ParquetFile, wanted: list[int], columns: list[str] | None) -> pa.Table:
        read.append(wanted)
        return groups(file, wanted, columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noting)
    assert storage.read_rows(forty_rows[8], 15, 2)["n"].to_pylist() == [15, 16]
    assert read == [[1, 2]]


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    table = pa.table({"a": pa.array([], pa.int32())})
    storage.write_table(tmp_path / "a", table)
    assert storage.read_rows(tmp_path / "a", 0, 5).equals(table)


def test_a_file_is_below_a_folder_or_where_its_address_says() -> None:
    far = S3Options(endpoint="http://127.0.0.1:9")
    bucket, inside = (storage.Remote("s3", "runs", key, far) for key in ("a", "a/store/0.tar"))
    assert storage.below(Path("/runs"), "store/0.tar") == Path("/runs/store/0.tar")
    assert storage.below(Path("/runs"), "/old/0.tar") == Path("/old/0.tar")
    assert storage.below(bucket, "/old/0.tar") == Path("/old/0.tar")
    assert storage.below(bucket, "store/0.tar") == inside
    assert storage.below(bucket, "s3://old/0.tar") == storage.Remote("s3", "old", "0.tar", far)
