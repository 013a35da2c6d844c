"""Reading WARCs in a Beam graph: one part a file."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import apache_beam as beam

from pipelines.config import Warcs, expand
from pipelines.extract import extract_pages, read_warc
from pipelines.stage import Place, Stage
from shards.storage import Location, open_stream
from shards.stores.options import StorageOptions

Mode = Literal["interleaved", "prose"]


def extract_stage(name: str, warcs: Warcs, mode: Mode, storage: StorageOptions) -> Stage:
    """The documents of every page in the WARC files."""
    files = expand(warcs.files, f"corpora.{name.split('/')[0]}.read.files", storage)
    return Stage(
        name,
        partial(_extract, warcs=warcs, mode=mode, files=files),
        [warcs.model_dump(), mode],
        ("pipelines.extract", "pipelines.extraction"),
        files=tuple(files),
        parts=lambda _: len(files),
    )


def _extract(parts: Any, place: Place, warcs: Warcs, mode: Mode, files: Sequence[Location]) -> Any:
    return parts | "extract" >> beam.Map(_extract_file, place, mode, warcs.source, files)


def _extract_file(
    part: int, place: Place, mode: Mode, source: str, files: Sequence[Location]
) -> int:
    with place.clock():
        if not place.has(part):
            file = files[part]
            with open_stream(file) as stream:
                documents, drops = extract_pages(read_warc(stream), mode, source, str(file))
            kept = documents.num_rows
            read = {"document": kept + drops.num_rows}
            place.write(part, documents, drops, read=read, kept={"document": kept})
    return part
