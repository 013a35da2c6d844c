"""Tables of image URLs and captions: Parquet, CSV, TSV and JSONL, a pair a row, however damaged.

A part is a range of a Parquet file's rows or of the bytes of a TSV or JSONL file. A CSV, whose
quotes may hold line breaks, and a compressed file can only be read from the start, and so is by
each of its parts, which are therefore larger (`COARSER`). No file is read through to find parts.

Where the recipe does not say which columns hold URL and caption, they are known by their names as
DataComp, COYO, LAION, CC3M, CC12M and img2dataset write them, in any case of letters. So is the
hash of the image, if there is one.
"""

import csv
import math
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from configs.reading import ConfigError
from pipelines.config.sources import Tables, expand
from pipelines.reading.compressed import CODECS, plain_suffix
from pipelines.reading.records import Lost
from pipelines.reading.rows import (
    COARSER,
    RUN,
    first_lines,
    numbered_lines,
    parse_object,
    raise_storage_failure,
    string,
    value_at,
    values_at,
)
from shards.images import Sample, adopted, tar_samples
from shards.storage import Location, in_parallel, open_parquet, open_stream, read_rows
from shards.storage import size as file_size
from shards.stores.options import StorageOptions

Format = Literal["parquet", "csv", "tsv", "jsonl", "tar"]
SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".tar": "tar",
}
URL_COLUMNS = frozenset(("url", "image_url", "img_url"))
TEXT_COLUMNS = frozenset(("caption", "text", "alt", "alt_text"))
# DataComp's, PixMo's, and those of LAION with hashes and of img2dataset.
HASH_COLUMNS = frozenset(("sha256", "image_sha256", "md5", "image_md5"))
HASH = re.compile("[0-9a-f]{64}|[0-9a-f]{32}")  # of sha256 and md5
BAD_HASH = "bad_hash"
HASH_ROWS = 100  # that tell at once whether a column holds hashes
TXT = "txt"  # as if it were a column: the .txt of a sample of a WebDataset shard

Row = dict[str, Any]
Rows = Iterator[tuple[int, Row | Lost]]


@dataclass(frozen=True)
class Slice:
    """What one part reads: rows or bytes `start` to `stop` of a file, or a share of its lines."""

    tables: Tables
    file: Location
    format: Format
    names: tuple[str, ...] = ()  # of the columns; of JSONL the keys of its first row
    columns: Mapping[str, str] = field(default_factory=dict)  # as `column_names` gives them
    headed: bool = False  # the first line holds the names
    start: int = 0
    stop: int | None = None
    share: tuple[int, int] = (0, 1)


def slices(tables: Tables, key: str, storage: StorageOptions) -> list[Slice]:
    """The parts of the files of a source; `key` is where the recipe names it.

    Raises `ConfigError` for a pattern without a file, a file of unknown format, one in which URL or
    caption cannot be found, and a column of hashes that holds something else.
    """
    files = expand(tables.files, f"{key}.files", storage)
    cut = partial(_cut, tables=tables, key=key)
    parts = [part for parts in in_parallel(cut, files) for part in parts]
    for part in parts[:1]:
        _check_hashes(part, key)
    return parts


def _check_hashes(part: Slice, key: str) -> None:
    """Raises `ConfigError` if the first rows have values for hashes, none of which is one.

    Such a column is wrong in all files. Of other columns a row without a hash costs only itself,
    when it is read.
    """
    if "hash" not in part.columns:
        return
    rows = [row for _, row in islice(read_slice(part), HASH_ROWS)]
    bad = [row for row in rows if isinstance(row, Lost) and row.reason == BAD_HASH]
    if bad and not any(row["hash"] for row in rows if not isinstance(row, Lost)):
        raise ConfigError(
            f"{key}.hash: {part.file}: {bad[0].detail}; write which column has the images' hashes, "
            f"or {key}.hash: false to check none"
        )


def _cut(file: Location, tables: Tables, key: str) -> list[Slice]:
    format = _format(file, tables, key)  # noqa: A001
    if format == "parquet":
        return _cut_parquet(file, tables, key)
    if format == "tar":
        return [_whole_tar(file, tables, key)]
    lines, bytes_a_line = first_lines(file, tables.max_bytes)
    names, headed = _named(format, lines)
    if not lines:
        return []
    columns = _columns(file, names, tables, key)
    part = partial(Slice, tables, file, format, names, columns, headed)
    size = file_size(file)
    if format == "csv" or file.suffix in CODECS:
        shares = math.ceil(size / (bytes_a_line * tables.rows_per_part * COARSER))
        return [part(share=(number, shares)) for number in range(shares)]
    step = math.ceil(tables.rows_per_part * bytes_a_line)
    return [part(start=at, stop=at + step) for at in range(0, size, step)]


def _format(file: Location, tables: Tables, key: str) -> Format:
    """By the recipe, or by the name of the file."""
    suffix = plain_suffix(file)
    if file.suffix in CODECS and suffix == ".tar":
        raise ConfigError(
            f"{key}: {file} is compressed, and pictures are read where they are: unpack it first"
        )
    known = tables.format or SUFFIXES.get(suffix)
    if known is None:
        raise ConfigError(
            f"{key}: the format of {file} cannot be told by its name; write {key}.format, "
            f"one of {', '.join(sorted(set(SUFFIXES.values())))}"
        )
    return known


def _cut_parquet(file: Location, tables: Tables, key: str) -> list[Slice]:
    """Ranges of rows; one slice, which will say what is wrong, if there is no reading the file."""
    try:
        opened = open_parquet(file)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise_storage_failure(error)
        return [Slice(tables, file, "parquet")]
    names, rows = tuple(opened.schema_arrow.names), opened.metadata.num_rows
    part = partial(Slice, tables, file, "parquet", names, _columns(file, names, tables, key))
    starts = range(0, rows, tables.rows_per_part)
    return [part(start=at, stop=min(at + tables.rows_per_part, rows)) for at in starts]


def _whole_tar(file: Location, tables: Tables, key: str) -> Slice:
    """A WebDataset shard; its first sample says what there is, and no more is read of it now."""
    try:
        first = next(tar_samples(file), None)
    except tarfile.TarError:  # which its slice will say
        first = None
    if first is None:
        return Slice(tables, file, "tar")
    if tables.hash:
        raise ConfigError(
            f"{key}.hash: {file}: pictures of a shard are not compared with a hash, which would be "
            "that of an original"
        )
    names = tuple(_told(first))
    if tables.url is None and not URL_COLUMNS.intersection(name.lower() for name in names):
        names += ("url",)  # no sample has one, nor needs it: its picture is there
    own: dict[str, Any] = {"hash": False}
    if tables.text is None and TXT in names:
        own["text"] = TXT
    columns = _columns(file, names, tables.model_copy(update=own), key)
    return Slice(tables, file, "tar", names, columns)


def _told(sample: Sample) -> Row:
    """What the texts of a sample say, by column."""
    text = sample.texts.get("txt")
    return sample.facts | ({} if text is None else {TXT: text})


def _named(format: Format, lines: Sequence[bytes]) -> tuple[tuple[str, ...], bool]:  # noqa: A002
    """The names of the columns, and whether a header gives them.

    A first line that has a web address in it is a row and no header: CC3M has captions and URLs so,
    CC12M URLs and captions.
    """
    if not lines:
        return (), False
    if format == "jsonl":
        rows = (parse_object(line, 0) for line in lines)
        return next((tuple(row) for row in rows if isinstance(row, dict)), ()), False
    cells = _header(format, lines)
    addresses = ["://" in cell for cell in cells]
    if any(addresses):
        others = iter(["caption", *(f"column_{n}" for n in range(2, len(cells)))])
        urls = iter(["url", *(f"url_{n}" for n in range(2, len(cells) + 1))])
        return tuple(next(urls if is_url else others) for is_url in addresses), False
    return cells, True


def _header(format: Format, lines: Sequence[bytes]) -> tuple[str, ...]:  # noqa: A002
    texts = [line.decode("utf-8", "replace").removeprefix("\ufeff") for line in lines]
    cells = next(csv.reader(texts)) if format == "csv" else texts[0].rstrip("\r\n").split("\t")
    return tuple(cells)


def _columns(file: Location, names: Sequence[str], tables: Tables, key: str) -> dict[str, str]:
    """What `column_names` says; the columns that the recipe names have to be there."""
    there = f"it has {', '.join(names) or 'no row'}"
    try:
        columns = column_names(names, tables)
    except ConfigError as error:
        raise ConfigError(f"{key}: {file}: {error}; {there}") from error
    for column in [*columns.values(), *([] if tables.extra == "all" else tables.extra)]:
        if column not in names and column.partition(".")[0] not in names:
            raise ConfigError(f"{key}: {file}: no column {column!r}; {there}")
    return columns


def column_names(names: Sequence[str], tables: Tables) -> dict[str, str]:
    """Which column holds "url", "text", "hash", "licence" and "synthetic".

    The last two only if the recipe names them, and a hash only if there is one. Raises
    `ConfigError` where URL or caption are not named by the recipe and none of the columns could be
    it, or several could be it or the hash.
    """
    found = {
        "url": tables.url or _only(URL_COLUMNS, names, "url"),
        "text": tables.text or _only(TEXT_COLUMNS, names, "text"),
        "hash": _hash_column(names) if tables.hash is None else tables.hash or None,
        "licence": tables.licence,
        "synthetic": tables.synthetic.text if tables.synthetic else None,
    }
    return {name: column for name, column in found.items() if column is not None}


def _hash_column(names: Sequence[str]) -> str | None:
    there = HASH_COLUMNS.intersection(name.lower() for name in names)
    return _only(HASH_COLUMNS, names, "hash") if there else None


def _only(known: Iterable[str], names: Sequence[str], key: str) -> str:
    """The one of the columns that has a known name."""
    fits = [name for name in names if name.lower() in known]
    if len(fits) == 1:
        return fits[0]
    what = {"url": "the image's URL", "text": "the caption", "hash": "the image's hash"}[key]
    if fits:
        raise ConfigError(f"{' and '.join(fits)} could hold {what}: write which one as {key}")
    raise ConfigError(f"no column is known to hold {what}: write which one does as {key}")


def read_slice(part: Slice) -> Rows:
    """The rows of a part, by what `column_names` calls a column; "extra" is a mapping of others.

    Each is at the number of its row (Parquet, CSV) or at the byte that it begins at. What is no row
    is a `Lost`: those of `rows`, "bad_row" of a CSV, "bad_hash", and "no_picture" of a tar, whose
    rows have the columns of `schema.IMAGE` as "picture". Raises OSError if the storage fails.
    """
    for position, row in _rows(part):
        yield position, _hashed(row, position, part) if "hash" in part.columns else row


def _hashed(row: Row | Lost, position: int, part: Slice) -> Row | Lost:
    """A row, if its hash is one or empty."""
    if isinstance(row, Lost) or row["hash"] is None or HASH.fullmatch(row["hash"]):
        return row
    value, column = row["hash"][:80], part.columns["hash"]
    message = f"column {column!r} holds {value!r}, which is no sha256 or md5 in hex digits"
    return Lost(row["url"], position, BAD_HASH, message)


def _rows(part: Slice) -> Rows:
    if part.format == "parquet":
        yield from _read_parquet(part)
        return
    if part.format == "tar":
        yield from _read_tar(part)
        return
    codec, longest = CODECS.get(part.file.suffix), part.tables.max_bytes
    with open_stream(part.file) as stream:
        if part.format == "csv":
            yield from _read_csv(numbered_lines(stream, longest, codec), part)
            return
        span = (codec, part.start, part.stop, part.share)
        for position, line in numbered_lines(stream, longest, *span):
            if isinstance(line, Lost):
                yield position, line
            elif line.strip() and not (part.headed and position == 0):
                yield position, _parsed(line, position, part)


def _parsed(line: bytes, position: int, part: Slice) -> Row | Lost:
    """A line of JSONL or TSV; of the latter a quote is a character like any other."""
    if part.format == "jsonl":
        value = parse_object(line, position)
        return value if isinstance(value, Lost) else _picked(value, part)
    try:
        text = line.decode("utf-8-sig" if position == 0 else "utf-8")
    except UnicodeDecodeError as error:
        return Lost(None, position, "not_utf8", str(error))
    return _picked(_named_cells(text.rstrip("\r\n").split("\t"), part), part)


def _named_cells(cells: Sequence[str], part: Slice) -> Row:
    """Cells by column; empty ones are null, and those beyond the last column nothing."""
    return {name: cell or None for name, cell in zip(part.names, cells, strict=False)}


def _read_csv(lines: Iterable[tuple[int, bytes | Lost]], part: Slice) -> Rows:
    """The share of a CSV's rows, as Python's reader takes them; quotes may hold line breaks."""
    broken: list[Lost] = []
    for number, cells in _csv_rows(lines, broken):
        mine = number // RUN % part.share[1] == part.share[0]
        if mine:
            yield from ((each.offset, each) for each in broken)
        if mine and cells and not (part.headed and number == 0):
            yield number, _csv_row(cells, number, part)
        broken.clear()


def _csv_rows(
    lines: Iterable[tuple[int, bytes | Lost]], broken: list[Lost]
) -> Iterator[tuple[int, list[str]]]:
    """Rows by number, the last one empty; what was no row before one is added to `broken`."""
    reader = csv.reader(_texts(lines, broken))
    for number in count():
        try:
            yield number, next(reader)
        except StopIteration:
            yield number, []
            return
        except csv.Error as error:
            broken.append(Lost(None, number, "bad_row", str(error)))
            yield number, []


def _texts(lines: Iterable[tuple[int, bytes | Lost]], broken: list[Lost]) -> Iterator[str]:
    """Lines as text with their ends; bytes that are no UTF-8 are surrogates, for `_csv_row`."""
    for position, line in lines:
        if isinstance(line, Lost):
            broken.append(line)
        else:
            text = line.decode("utf-8", "surrogateescape") + "\n"
            yield text.removeprefix("\ufeff") if position == 0 else text


def _csv_row(cells: Sequence[str], number: int, part: Slice) -> Row | Lost:
    try:
        "".join(cells).encode()
    except UnicodeEncodeError as error:
        return Lost(None, number, "not_utf8", error.reason)
    return _picked(_named_cells(cells, part), part)


def _picked(value: Mapping[str, Any], part: Slice) -> Row:
    """A row as `read_slice` gives it, from the values of its columns."""
    row: Row = {name: string(_value(value, column)) for name, column in part.columns.items()}
    if "hash" in part.columns:
        row["hash"] = _hash(_value(value, part.columns["hash"]))
    used, others = part.columns.values(), part.tables.extra
    wanted = [name for name in value if name not in used] if others == "all" else others
    extra = {name: scalar(_value(value, name)) for name in wanted}
    return row | {"extra": {name: found for name, found in extra.items() if found is not None}}


def _hash(value: Any) -> str | None:
    """A hash in one way of writing; None where it is empty. What is none stays, to be told."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return None if text is None else str(text).strip().lower() or None


def _value(value: Mapping[str, Any], column: str) -> Any:
    """What a column holds; `a.b` is field `b` of `a`, unless a column is called so."""
    return value[column] if column in value else value_at(value, column)


def scalar(value: Any) -> str | int | float | bool | None:
    """A value as JSON can say it: what is no number, no text and no list as text, NaN as null."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping | list) or value is None:
        return None
    return value if isinstance(value, str | int) else str(value)


def _read_parquet(part: Slice) -> Rows:
    """Rows of a Parquet file; as many `Lost` as there should be rows where it cannot be read."""
    stop = part.start + 1 if part.stop is None else part.stop
    try:
        columns = _parquet_columns(part, stop - part.start)
    except (OSError, pa.ArrowException, ValueError) as error:
        raise_storage_failure(error)
        lost = ((at, Lost(None, at, "bad_record", str(error))) for at in range(part.start, stop))
        yield from lost
        return
    for at, values in enumerate(zip(*columns.values(), strict=True), part.start):
        yield at, _parquet_row(dict(zip(columns, values, strict=True)), at, part)


def _parquet_columns(part: Slice, rows: int) -> dict[str, list[Any]]:
    """The wanted columns of a range of rows; texts are bytes that may be no UTF-8.

    Raises ValueError where the file does not hold a value for each row.
    """
    extra = part.names if part.tables.extra == "all" else part.tables.extra
    wanted = dict.fromkeys([*part.columns.values(), *extra])
    tops = {n if n in part.names else n.partition(".")[0] for n in wanted}
    table = read_rows(part.file, part.start, rows, sorted(tops))
    found = {name: values_at(table, name) for name in wanted}
    if short := next((name for name, values in found.items() if len(values) != rows), None):
        raise ValueError(f"{len(found[short])} values of {short} for {rows} rows")
    return found


def _parquet_row(value: Row, position: int, part: Slice) -> Row | Lost:
    for column in (column for name, column in part.columns.items() if name != "hash"):
        try:
            value[column] = value[column].decode()
        except UnicodeDecodeError as error:
            return Lost(None, position, "not_utf8", str(error))
        except AttributeError:  # no text
            pass
    return _picked(value, part)


def _read_tar(part: Slice) -> Rows:
    """The samples of a WebDataset shard, up to where it is damaged."""
    at = 0
    try:
        for sample in tar_samples(part.file, max_text=part.tables.max_bytes):
            at = sample.offset
            yield at, _sample(sample, part)
    except tarfile.TarError as error:
        yield at, Lost(None, at, "bad_record", f"the tar is damaged or compressed: {error}")


def _sample(sample: Sample, part: Slice) -> Row | Lost:
    if None in sample.texts.values():
        message = f"more than {part.tables.max_bytes} bytes of text"
        return Lost(None, sample.offset, "row_too_large", message, "dropped")
    told = _told(sample)
    if isinstance(text := told.get(TXT), bytes):
        try:
            told[TXT] = text.decode()
        except UnicodeDecodeError as error:
            return Lost(None, sample.offset, "not_utf8", str(error))
    row = _picked(told, part)
    if not sample.pictures:
        why = f"sample {sample.key} of {part.file}: status {told.get('status')}"
        return Lost(row["url"], sample.offset, "no_picture", why, "dropped")
    picture, tar = sample.pictures[0], _address(part.file)
    url = row["url"] or f"{tar}/{picture.name}"
    return row | {"url": url, "picture": adopted(picture, tar)}


def _address(file: Location) -> str:
    """Where a file is, whoever asks from wherever."""
    return str(file.absolute() if isinstance(file, Path) else file)
