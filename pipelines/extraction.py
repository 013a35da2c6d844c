"""Reading WARCs in a Beam graph: one part a file."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import apache_beam as beam

from pipelines.config import Warcs, expand
from pipelines.extract import extract_pages, read_warc
from pipelines.stage import Place, Stage, each_part, pending
from shards import ledger

Mode = Literal["interleaved", "prose"]


def extract_stage(name: str, warcs: Warcs, mode: Mode, key: str) -> Stage:
    """The documents of every page in the WARC files; `key` names the recipe's list of files."""
    files = expand(warcs.files, key)
    return Stage(
        name,
        partial(_extract, warcs=warcs, mode=mode, files=files),
        [warcs.model_dump(), mode],
        ("pipelines.extract", "pipelines.extraction"),
        files=tuple(files),
        parts=lambda _: len(files),
    )


def _extract(begin: Any, place: Place, warcs: Warcs, mode: Mode, files: Sequence[str]) -> Any:
    todo = [(part, files[part]) for part in pending(place)]
    work = partial(_extract_file, place=place, mode=mode, source=warcs.source)
    return each_part(begin, todo) | "extract" >> beam.MapTuple(work)


def _extract_file(part: int, file: str, *, place: Place, mode: Mode, source: str) -> int:
    documents, drops = extract_pages(read_warc(file), mode, source, file)
    read, kept = documents.num_rows + drops.num_rows, documents.num_rows
    ledger.write_part(
        place.out, part, documents, drops, read={"document": read}, kept={"document": kept}
    )
    return part
