"""Reading pages in a Beam graph: records to documents, and an account of those that are none."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any

import apache_beam as beam
import pyarrow as pa

from configs.reading import ConfigError
from filters.rules import reasons
from filters.urls import BlockLists, block_lists, url_blocks
from pipelines.config.sources import Block, Pages, expand
from pipelines.reading.extract import Reader
from pipelines.reading.guard import Answer, read_pages
from pipelines.reading.inputs import Slice, lines, read_slice, slices
from pipelines.reading.records import Lost, Page, Record, lost_row, page_detail, page_reason
from pipelines.stage import Part, Place, Stage
from shards import schema
from shards.storage import Location
from shards.stores.options import StorageOptions

# Records that are worked on together, and the bytes of their texts: a piece of the pages that a
# process for parsing is sent at once.
BATCH_RECORDS, BATCH_BYTES = 1000, 4_000_000

MODULES = (
    "pipelines.reading.blocks",
    "pipelines.reading.compressed",
    "pipelines.reading.encoding",
    "pipelines.reading.extract",
    "pipelines.reading.extraction",
    "pipelines.reading.guard",
    "pipelines.reading.html",
    "pipelines.reading.inputs",
    "pipelines.reading.prose",
    "pipelines.reading.records",
    "pipelines.reading.rows",
    "pipelines.reading.warc",
)

NONE = BlockLists()
Found = tuple[str, Record]  # with the file that it is in


@dataclass(frozen=True)
class BlockFiles:
    """Where the block-lists are, by name."""

    lists: tuple[tuple[str, tuple[Location, ...]], ...]
    min_soft_words: int


def extract_stage(name: str, pages: Pages, reader: Reader, storage: StorageOptions) -> Stage:
    """The documents of all inputs: pages read as `reader` says, and texts as they are.

    Raises `ConfigError` for inputs that are not there and an extractor that is not installed.
    """
    key = f"corpora.{name.split('/')[0]}.read"
    if reader == "trafilatura" and find_spec(reader) is None:
        raise ConfigError(f"{key}.extractor: install trafilatura, or mixwright[trafilatura]")
    parts = slices(pages, key, storage)
    block = _block_files(pages.block, f"{key}.block", storage)
    files = dict.fromkeys(file for part in parts for file in part.files)
    files |= dict.fromkeys(file for _, found in block.lists for file in found)
    return Stage(
        name,
        partial(_extract, pages=pages, reader=reader, slices=parts, block=block),
        [pages.model_dump(), reader],
        MODULES,
        files=tuple(files),
        parts=lambda _: len(parts),
    )


def _block_files(block: Block, key: str, storage: StorageOptions) -> BlockFiles:
    names = ("domains", "urls", "words", "soft_words", "substrings")
    found = (expand(getattr(block, name), f"{key}.{name}", storage) for name in names)
    return BlockFiles(
        tuple((name, tuple(files)) for name, files in zip(names, found, strict=True)),
        block.min_soft_words,
    )


@lru_cache(1)
def _block_lists(block: BlockFiles) -> BlockLists:
    """The lists, read once a process."""
    entries = {name: lines(files) for name, files in block.lists}
    return block_lists(**entries, min_soft_words=block.min_soft_words)


def _extract(
    parts: Any,
    place: Place,
    pages: Pages,
    reader: Reader,
    slices: Sequence[Slice],
    block: BlockFiles,
) -> Any:
    return parts | "extract" >> beam.Map(_extract_part, place, pages, reader, slices, block)


def _extract_part(
    part: int,
    place: Place,
    pages: Pages,
    reader: Reader,
    slices: Sequence[Slice],
    block: BlockFiles,
) -> int:
    with place.clock():
        if not place.has(part):
            found = read_slice(slices[part], pages)
            documents, drops = extract_records(found, pages, reader, _block_lists(block))
            kept = documents.num_rows
            read = {"document": kept + drops.num_rows}
            place.write(part, documents, drops, read=read, kept={"document": kept})
    return part


def extract_records(
    found: Iterable[Found], pages: Pages, reader: Reader, lists: BlockLists = NONE
) -> Part:
    """Documents (`schema.DOCUMENT`) and drops (`schema.DROP`); each record is a row of one.

    Reasons: those of `filters.urls`, before anything is parsed; of `records.page_reason`;
    "page_too_complex" and those of `guard.read_pages`; "no_text" and, for "interleaved",
    "no_images"; and those of `Lost` for what an input could not give. `detail` holds the message
    of an error and where it is.

    The id of a drop is the digest of source and URL, of a record without URL the digest of
    source, file and offset. A page that the input holds twice gives two rows with one id;
    deduplication is a later stage.
    """
    documents, drops = [schema.DOCUMENT.empty_table()], [schema.DROP.empty_table()]
    for batch in _batches(found):
        rows = _rows(batch, pages, reader, lists)
        documents.append(schema.documents(row for row in rows if "parts" in row))
        lost = [row for row in rows if "reason" in row]
        drops.append(pa.Table.from_pylist(lost, schema=schema.DROP))
    return pa.concat_tables(documents), pa.concat_tables(drops)


def _batches(found: Iterable[Found]) -> Iterator[list[Found]]:
    batch: list[Found] = []
    size = 0
    for file, record in found:
        batch.append((file, record))
        size += len(getattr(record, "body", "")) + len(getattr(record, "text", ""))
        if len(batch) >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _rows(
    batch: Sequence[Found], pages: Pages, reader: Reader, lists: BlockLists
) -> list[Mapping[str, Any]]:
    """A row of `schema.DOCUMENT` or of `schema.DROP` for each record."""
    judged = _judged([record for _, record in batch], lists)
    answers = iter(_answers([r for r in judged if isinstance(r, Page)], pages, reader))
    rows: list[Mapping[str, Any]] = []
    for (file, _), record in zip(batch, judged, strict=True):
        if isinstance(record, Lost):
            rows.append(lost_row(record, pages.source, file))
            continue
        if isinstance(record, Page):
            answer = next(answers)
        else:
            answer = Answer([schema.text_part(record.text)] if record.text.strip() else [])
        rows.append(_row(record, answer, pages, reader, file))
    return rows


def _judged(records: Sequence[Record], lists: BlockLists) -> list[Record]:
    """The records, those `Lost` that are not worth parsing."""
    blocked = [None] * len(records)
    if lists:
        urls = pa.array([record.url for record in records], pa.string())
        blocked = reasons(url_blocks(urls, lists)).to_pylist()
    return [_worth(record, reason) for record, reason in zip(records, blocked, strict=True)]


def _worth(record: Record, blocked: str | None) -> Record:
    if isinstance(record, Lost):
        return record
    if blocked:
        return Lost(record.url, record.offset, blocked, kind="dropped")
    if isinstance(record, Page) and (reason := page_reason(record)):
        detail = page_detail(record, reason)
        return Lost(record.url, record.offset, reason, detail, "dropped")
    return record


def _answers(found: Sequence[Page], pages: Pages, reader: Reader) -> list[Answer]:
    return read_pages([(p.body, p.url, p.charset, reader) for p in found], pages.page_seconds)


def _row(
    record: Record, answer: Answer, pages: Pages, reader: Reader, file: str
) -> Mapping[str, Any]:
    """A row of `schema.DOCUMENT`, or of `schema.DROP` if there is nothing to read."""
    assert not isinstance(record, Lost)
    if answer.reason is None:
        answer = answer._replace(reason=_parts_reason(answer.parts, reader))
    if answer.reason is not None:
        lost = Lost(record.url, record.offset, answer.reason, answer.detail, answer.kind)
        return lost_row(lost, pages.source, file)
    return schema.document(
        pages.source,
        record.url,
        answer.parts,
        licence=record.licence or answer.licence,
        snapshot=record.snapshot or pages.snapshot,
        file=file,
        position=record.offset,
    )


def _parts_reason(parts: Sequence[Mapping[str, Any]], reader: Reader) -> str | None:
    if not any(part["text"] for part in parts):
        return "no_text"
    if reader == "interleaved" and not any(part["url"] for part in parts):
        return "no_images"
    return None
