"""The step that finds text of evaluation sets in documents, and drops or reports these."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import takewhile
from pathlib import PurePosixPath
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.reading import ConfigError
from filters.decontamination import Index, Overlap, contaminated, find, overlaps
from pipelines.config.sources import expand
from pipelines.config.steps import Decontaminate
from pipelines.reading.compressed import CODECS, whole
from pipelines.stage import (
    Pieces,
    Place,
    Stage,
    by_part,
    measures_of,
    partitions,
    scatter,
    write_documents,
)
from shards import ledger, schema
from shards.storage import Location, exists, read_table, write_table
from shards.stores.options import StorageOptions

KEY = "corpora.text.steps.decontaminate.files"
NGRAMS, ITEMS = "evaluation.ngrams.parquet", "evaluation.items.parquet"

# How many documents of a part have an n-gram, which is named by its row in the index.
COUNT = pa.schema([("ngram", pa.int32()), ("documents", pa.int64()), ("part", pa.int32())])

Group = tuple[int, Iterable[pa.Table]]
Located = tuple[tuple[str, Location], ...]  # evaluation sets by name


def decontaminate_stage(
    name: str, source: Stage, options: Decontaminate, storage: StorageOptions
) -> Stage:
    """Look for the text of evaluation sets in every document."""
    files = expand(options.files, KEY, storage)
    if unknown := [str(file) for file in files if _format(file) not in FORMATS]:
        raise ConfigError(f"{KEY}: {unknown[0]} is none of {', '.join(FORMATS)}")
    sets = tuple(zip(set_names(files), files, strict=True))
    return Stage(
        name,
        partial(_decontaminate, options=options, sets=sets),
        options.model_dump(),
        ("pipelines.duplicates.decontaminate",),
        inputs=(source.name,),
        files=tuple(files),
    )


def set_names(files: Sequence[Location]) -> list[str]:
    """What the evaluation sets are called: their paths below the folder that all are in."""
    paths = [PurePosixPath(str(file)) for file in files]
    levels = zip(*(path.parts[:-1] for path in paths), strict=False)
    above = len(list(takewhile(lambda names: len(set(names)) == 1, levels)))
    return [str(PurePosixPath(*path.parts[above:])) for path in paths]


def _decontaminate(parts: Any, place: Place, options: Decontaminate, sets: Located) -> Any:
    if options.max_documents is None:
        return parts | "decontaminate" >> beam.Map(_decontaminate_part, place, options, sets)
    common = (
        parts
        | "n-grams" >> beam.FlatMap(_send, place, options, sets)
        | "by n-gram" >> beam.GroupByKey()
        | "common" >> beam.FlatMap(_common, place, options.max_documents)
    )
    return by_part(parts, common, COUNT) | "write" >> beam.Map(_write, place, options, sets)


def _decontaminate_part(part: int, place: Place, options: Decontaminate, sets: Located) -> int:
    return _write((part, [COUNT.empty_table()]), place, options, sets)


def _send(part: int, place: Place, options: Decontaminate, sets: Located) -> Pieces:
    """How many documents of a part have each n-gram, to the partition of the n-gram."""
    with place.clock():
        ngrams = np.asarray(_find(place.read(part), place, options, sets)["ngram"])
        distinct, counts = np.unique(ngrams, return_counts=True)
        columns = [distinct, counts, np.full(len(distinct), part)]
        table = pa.table(columns, COUNT.names).cast(COUNT)
        return place.sent(scatter(table, distinct % partitions(place)))


def _common(group: Group, place: Place, most: int) -> Pieces:
    """N-grams that more than `most` documents have, to each part that has them."""
    with place.clock():
        table = pa.concat_tables(group[1]).combine_chunks()
        _, kinds = np.unique(np.asarray(table["ngram"]), return_inverse=True)
        often = np.bincount(kinds, np.asarray(table["documents"]))[kinds] > most
        table = table.filter(pa.array(often))
        return place.sent(scatter(table, table["part"]))


def _find(documents: pa.Table, place: Place, options: Decontaminate, sets: Located) -> pa.Table:
    return find(schema.texts(documents), _index(place, options, sets))


def _index(place: Place, options: Decontaminate, sets: Located) -> Index:
    return load_index(place.out, sets, tuple(options.fields), options.ngram, options.shortest)


def _write(group: Group, place: Place, options: Decontaminate, sets: Located) -> int:
    part, common = group
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            hits = _find(documents, place, options, sets)
            ignored = pa.concat_tables(common)["ngram"]
            hits = hits.filter(pc.invert(pc.is_in(hits["ngram"], ignored.combine_chunks())))
            found = overlaps(hits, _index(place, options, sets))
            limit = None if options.report_only else options.max_ngrams
            rule = contaminated(found, documents.num_rows, max=limit)
            kept = documents.filter(pa.array(~rule.drops()))
            result = kept, _rows(documents, found, rule.drops())
            measures = measures_of(documents, [rule])
            write_documents(place, part, documents, result, measures=measures)
    return part


def _rows(documents: pa.Table, found: Sequence[Overlap], dropped: Any) -> pa.Table:
    """The ledger's rows: documents that are dropped, and those that are only reported."""
    reasons = np.full(documents.num_rows, None, object)
    details = np.full(documents.num_rows, None, object)
    for overlap in found:
        reasons[overlap.row] = "contaminated"
        more = f" and {overlap.ngrams - 1} more" if overlap.ngrams > 1 else ""
        details[overlap.row] = f"{overlap.set}: {overlap.ngram}{more}"
    rows = ledger.drop_rows(documents, reasons.tolist(), details=details.tolist())
    kinds = np.where(dropped[[overlap.row for overlap in found]], "dropped", ledger.REPORTED)
    kind = rows.schema.field("kind")
    return rows.set_column(rows.schema.get_field_index("kind"), kind, pa.array(kinds, kind.type))


# The evaluation sets


@lru_cache(maxsize=1)
def load_index(
    out: Location, sets: Located, fields: tuple[str, ...], ngram: int, shortest: int
) -> Index:
    """The index of the evaluation sets, once a process.

    The first worker to need it makes it and leaves it in the stage's folder. Another that asks
    before it is there makes the same.
    """
    if not exists(out / NGRAMS):
        index = Index.of(_items(sets, fields), ngram, shortest)
        write_table(out / ITEMS, index.items)
        write_table(out / NGRAMS, index.ngrams)
    # In one piece, so that the arrays of the index are views of it.
    return Index(read_table(out / ITEMS), read_table(out / NGRAMS).combine_chunks())


def _items(sets: Located, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    for name, file in sets:
        texts = list(read_items(file, fields))
        if not texts:
            where = f"the fields {', '.join(fields)}" if fields else "it"
            raise ValueError(f"{file}: no text in {where}: nothing to look for in documents")
        yield from ((name, text) for text in texts)


def read_items(file: Location, fields: Sequence[str] = ()) -> Iterator[str]:
    """The texts of an evaluation set, or those below some of its fields only.

    A line of a .txt is an item, elsewhere every string of a row, however deep it is nested.

    Raises:
        ValueError: a row cannot be read; names the file.
    """
    kind = _format(file)
    try:
        for row in FORMATS[kind](whole(file)):
            some = fields and kind != ".txt"
            yield from _strings({k: v for k, v in row.items() if k in fields} if some else row)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{file} cannot be read as {kind}: {error}") from error


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            yield from _strings(below)


def _format(file: Location) -> str:
    """The suffix that tells what a file holds."""
    name = PurePosixPath(file.name)
    return PurePosixPath(name.stem).suffix if name.suffix in CODECS else name.suffix


def _text(data: bytes) -> io.StringIO:
    return io.StringIO(data.decode("utf-8-sig"), newline="")


def _lines(data: bytes) -> Iterable[Any]:
    return data.decode("utf-8-sig").splitlines()


def _json_lines(data: bytes) -> Iterable[Any]:
    return (json.loads(line) for line in _text(data) if line.strip())


def _json(data: bytes) -> Iterable[Any]:
    found = json.loads(data)
    return found if isinstance(found, list) else [found]


def _table(data: bytes, separator: str) -> Iterable[Any]:
    return csv.DictReader(_text(data), delimiter=separator)


def _parquet(data: bytes) -> Iterable[Any]:
    file = pq.ParquetFile(pa.BufferReader(data))
    return (row for batch in file.iter_batches() for row in batch.to_pylist())


FORMATS: dict[str, Callable[[bytes], Iterable[Any]]] = {
    ".txt": _lines,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": partial(_table, separator=","),
    ".tsv": partial(_table, separator="\t"),
    ".parquet": _parquet,
}
