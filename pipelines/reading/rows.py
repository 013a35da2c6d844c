"""Tables of texts or pages, one a row: JSONL and Parquet, however damaged.

Where a row holds what is said by `Columns`; without it, fields are looked for where datatrove,
FineWeb and Dolma put them.
"""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.config.sources import Columns
from pipelines.reading.compressed import CODECS, Codec, Damage, decompressed
from pipelines.reading.records import Lost, Page, Prose, Record
from shards.storage import Location, open_stream

# Where fields are if the recipe does not say; the first that a row has.
URLS = ("url", "metadata.url")
SNAPSHOTS = ("dump", "metadata.dump")
RUN = 1000  # lines that stay together where several parts read one compressed file
HEAD = 1 << 16  # bytes of a file that tell how long its lines are
COARSER = 10  # times more rows has a part of a compressed file than another

Row = Mapping[str, Any]  # by what `Columns` calls a field; bytes are text that is not decoded yet


def read_jsonl(
    stream: BinaryIO,
    columns: Columns,
    max_bytes: int,
    codec: Codec | None = None,
    start: int = 0,
    stop: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[Record]:
    """The rows of JSON Lines, each at the byte (uncompressed) that its line begins at.

    With `stop`, those whose line begins in [start, stop). With `share` (i, n), the i-th of each n
    runs of `RUN` lines: all of a compressed file has to be read to find them.

    What is no row becomes a `Lost`: "not_utf8", "not_json", "bad_text" (no such field, or it is no
    text), "row_too_large" (above `max_bytes`) and, for a broken place of a compressed file,
    "bad_record". Empty lines are no rows. Raises OSError if the storage fails.
    """
    wanted = _wanted(columns)
    for position, line in numbered_lines(stream, max_bytes, codec, start, stop, share):
        if isinstance(line, Lost):
            yield line
        elif line.strip():
            row = parse_object(line, position)
            yield row if isinstance(row, Lost) else _parsed(row, position, columns, wanted)


def numbered_lines(
    stream: BinaryIO,
    max_bytes: int,
    codec: Codec | None = None,
    start: int = 0,
    stop: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[int, bytes | Lost]]:
    """The lines of a file, or of a slice of it as `read_jsonl` says, and where each begins.

    What is no line is a `Lost`: "row_too_large" and "bad_record".
    """
    pieces = decompressed(stream, codec, max(start - 1, 0))
    for number, (position, line) in enumerate(_lines(pieces, max(start - 1, 0), max_bytes)):
        if stop is not None and position >= stop:
            return
        # The line that byte start - 1 is in is of the slice before.
        if position >= start and number // RUN % share[1] == share[0]:
            yield position, line


def first_lines(file: Location, max_bytes: int) -> tuple[list[bytes], float]:
    """Lines at the beginning of a file, and how many of its bytes one takes."""
    with open_stream(file) as stream:
        head = stream.read(HEAD)
    found = numbered_lines(io.BytesIO(head), max_bytes, CODECS.get(file.suffix))
    lines = [line for _, line in found if isinstance(line, bytes)]
    return lines, max(1, len(head)) / max(1, len(lines))


def _lines(
    pieces: Iterator[bytes | Damage], position: int, max_bytes: int
) -> Iterator[tuple[int, bytes | Lost]]:
    """Lines and where they begin; of one that is longer than `max_bytes`, a `Lost`."""
    tail, cut = b"", False
    for piece in pieces:
        if isinstance(piece, Damage):
            position += len(tail)
            tail, cut = b"", False
            yield position, Lost(None, piece.offset, "bad_record", piece.message)
            continue
        *whole, tail = (tail + piece).split(b"\n")
        for line in whole:
            yield position, _whole(line, position, cut, max_bytes)
            position, cut = position + len(line) + 1, False
        if len(tail) > max_bytes:
            position, tail, cut = position + len(tail), b"", True
    if tail or cut:
        yield position, _whole(tail, position, cut, max_bytes)


def _whole(line: bytes, position: int, cut: bool, max_bytes: int) -> bytes | Lost:
    if cut or len(line) > max_bytes:
        return Lost(None, position, "row_too_large", f"more than {max_bytes} bytes", "dropped")
    return line


def parse_object(line: bytes, position: int) -> dict[str, Any] | Lost:
    """The object that a line of JSON is, or why it is none: "not_utf8", "not_json"."""
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return Lost(None, position, "not_utf8", str(error))
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        return Lost(None, position, "not_json", str(error))
    if not isinstance(value, dict):
        return Lost(None, position, "not_json", "the line is no object")
    return value


def _parsed(
    value: Mapping[str, Any], position: int, columns: Columns, wanted: Mapping[str, Sequence[str]]
) -> Record:
    row = {name: _first(value, paths) for name, paths in wanted.items()}
    return _record(row, position, columns)


def _wanted(columns: Columns) -> dict[str, Sequence[str]]:
    """The paths at which each field is looked for."""
    named = columns.model_dump()
    wanted = {"url": URLS, "snapshot": SNAPSHOTS}
    return {name: (path,) if path else wanted.get(name, ()) for name, path in named.items()}


def _first(value: Mapping[str, Any], paths: Sequence[str]) -> Any:
    found = (value_at(value, path) for path in paths)
    return next((item for item in found if item is not None), None)


def value_at(value: Any, path: str) -> Any:
    """What is at `a.b` of nested objects; an object may be written as a string of JSON."""
    for name in path.split("."):
        if isinstance(value, str | bytes):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                return None
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _record(row: Row, position: int, columns: Columns) -> Record:
    """A page or a text from the fields of a row."""
    url, snapshot, licence = (string(row[name]) for name in ("url", "snapshot", "licence"))
    name = "html" if columns.html else "text"
    content = row[name]
    if not isinstance(content, str | bytes):
        wanted = getattr(columns, name)
        what = "there is none" if content is None else f"it is {type(content).__name__}"
        return Lost(url, position, "bad_text", f"no text in {wanted!r}: {what}")
    if columns.html:
        body = content if isinstance(content, bytes) else _clean(content)
        return Page(url, position, 200, "text/html", body=body, snapshot=snapshot, licence=licence)
    try:
        text = content if isinstance(content, str) else content.decode()
    except UnicodeDecodeError as error:
        return Lost(url, position, "not_utf8", str(error))
    return Prose(url, position, _clean(text), snapshot, licence)


def string(value: Any) -> str | None:
    """A field that describes a row; None where it is empty or no text."""
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return _clean(value) or None if isinstance(value, str) else None


def _clean(text: str) -> str:
    r"""`text` without halves of surrogate pairs: JSON can hold them ("\ud800"), UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def raise_storage_failure(error: Exception) -> None:
    """Raise an error again that is the storage's own failure, and not damage of what it holds."""
    if getattr(error, "errno", None) is not None:
        raise error


def read_parquet(
    file: pq.ParquetFile, groups: Sequence[int], columns: Columns, max_bytes: int
) -> Iterator[Record]:
    """The rows of some row groups, each at its number in the file.

    A row group that cannot be read is as many `Lost` with reason "bad_record" as it has rows; for
    rows the reasons are those of `read_jsonl`. Raises OSError if the storage fails.
    """
    starts = [0]
    for group in range(file.num_row_groups):
        starts.append(starts[-1] + file.metadata.row_group(group).num_rows)
    for group in groups:
        places = range(starts[group], starts[group + 1])
        try:
            fields = _fields(file, group, columns)
        except (OSError, pa.ArrowException, ValueError) as error:
            raise_storage_failure(error)
            message = f"row group {group}: {error}"
            yield from (Lost(None, position, "bad_record", message) for position in places)
            continue
        for number, position in enumerate(places):
            row = {name: values[number] for name, values in fields.items()}
            yield _bounded(_record(row, position, columns), max_bytes)


def _bounded(record: Record, max_bytes: int) -> Record:
    content = record.text if isinstance(record, Prose) else getattr(record, "body", "")
    if len(content) > max_bytes:
        message = f"more than {max_bytes} bytes"
        return Lost(record.url, record.offset, "row_too_large", message, "dropped")
    return record


def _fields(file: pq.ParquetFile, group: int, columns: Columns) -> dict[str, list[Any]]:
    """The wanted fields of a row group, a value a row; texts are bytes that may be no UTF-8.

    Raises ValueError where the group does not hold a value for each of its rows.
    """
    wanted = _wanted(columns)
    paths = {path for each in wanted.values() for path in each}
    known = set(file.schema_arrow.names)
    needed = known & (paths | {path.partition(".")[0] for path in paths})
    table = file.read_row_group(group, columns=sorted(needed))
    count = file.metadata.row_group(group).num_rows
    found = {}
    for name, places in wanted.items():
        values = [values_at(table, path) for path in places]
        rows = zip(*values, strict=True) if values else [()] * count
        found[name] = [next((v for v in row if v is not None), None) for row in rows]
        if len(found[name]) != count:  # a damaged page may hold fewer values than it should
            raise ValueError(f"{len(found[name])} values of {name} for {count} rows")
    return found


def values_at(table: pa.Table, path: str) -> list[Any]:
    """What is at `a.b` in each row: a column of that name, a field of a struct, or in JSON."""
    if path in table.column_names:
        return _values(table[path])
    top, _, rest = path.partition(".")
    if top not in table.column_names:
        return [None] * table.num_rows
    column = table[top]
    if not pa.types.is_struct(column.type):
        return [value_at(value, rest) if rest else value for value in _values(column)]
    for name in rest.split("."):
        if not pa.types.is_struct(column.type) or column.type.get_field_index(name) < 0:
            return [None] * table.num_rows
        column = pc.struct_field(column, name)
    return _values(column)


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())  # not validated, so that one bad text costs one row
    elif pa.types.is_large_string(column.type):
        column = column.cast(pa.large_binary())
    return list(column.to_pylist())
