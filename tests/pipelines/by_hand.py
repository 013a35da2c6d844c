"""Stages in the small: their input is written by hand and their graph runs in this process."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.stage import Place, Stage
from shards import ledger, schema
from shards.storage import names, read_table


def source(name: str) -> Stage:
    """A stage that stands for one whose documents are there already."""
    return Stage(name, lambda parts, place: parts, None, ())


def write_stage(folder: Path, parts: Sequence[pa.Table]) -> Path:
    """The output folder of a finished stage that kept these documents."""
    out = folder / "out"
    for number, documents in enumerate(parts):
        counts = {"document": documents.num_rows}
        nothing = schema.DROP.empty_table()
        ledger.write_part(out, number, documents, nothing, read=counts, kept=counts)
    return _committed(out, len(parts))


def _committed(out: Path, parts: int) -> Path:
    about = {"folder": out.name, "parts": parts, "holds": names(out)}
    counts = asdict(ledger.sum_counts(out, parts))
    ledger.commit(out.parent, about | {"counts": counts})
    return out


def run_stage(
    stage: Stage, out: Path, inputs: Sequence[Path], lookups: Sequence[Path] = ()
) -> Place:
    """Run one stage's graphs, into a folder of `out`, and commit it."""
    count = stage.parts(inputs or lookups) if stage.parts else ledger.part_count(inputs[0])
    place = Place(stage.name, out.parent, out / "out", tuple(inputs), tuple(lookups), count)
    options = PipelineOptions(["--runner=FnApiRunner"])
    while stage.before and (graph := stage.before(place)):
        with beam.Pipeline(options=options) as pipeline:
            graph(pipeline)
    with beam.Pipeline(options=options) as pipeline:
        stage.build(pipeline | beam.Create(range(count)), place)
    if stage.finish:
        stage.finish(place)
    _committed(out / "out", count)
    return place


def kept(place: Place) -> list[list[str]]:
    """The ids of the documents of each part."""
    return [
        read_table(place.out / "documents" / f"{ledger.part_name(i)}.parquet")["id"].to_pylist()
        for i in range(place.parts)
    ]
