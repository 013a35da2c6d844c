"""Reading WARCs in a Beam graph: one part a file."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import apache_beam as beam

from pipelines.config import Warcs, expand
from pipelines.extract import extract_pages, read_warc
from pipelines.stage import Place, Stage
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


def _extract(parts: Any, place: Place, warcs: Warcs, mode: Mode, files: Sequence[str]) -> Any:
    return parts | "extract" >> beam.Map(_extract_file, place, mode, warcs.source, files)


def _extract_file(part: int, place: Place, mode: Mode, source: str, files: Sequence[str]) -> int:
    with place.clock():
        if not place.has(part):
            file = files[part]
            documents, drops = extract_pages(read_warc(file), mode, source, file)
            kept = documents.num_rows
            counts = {"document": kept + drops.num_rows}, {"document": kept}
            ledger.write_part(place.out, part, documents, drops, read=counts[0], kept=counts[1])
    return part
