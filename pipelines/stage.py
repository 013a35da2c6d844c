"""A stage: from parts to parts, and the pieces that the Beam graphs are built of.

The elements of a graph are the numbers of parts (an Arrow table of hundreds to thousands of
documents each), never single documents. A stage that needs no other record maps part *i* of its
input to part *i* of its output; a keyed stage sends small tables of keys through a shuffle and
writes the same parts again. Each stage hands on the number of every part once it is written, so
that the stages of a corpus chain into one Beam job without waiting for each other.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from apache_beam.metrics import Metrics

from filters.prose import prose
from filters.rules import Rule
from pipelines.config.rules import FILTERS, FilterSpec
from pipelines.engines import coders  # noqa: F401  tables of graphs are encoded by it
from pipelines.engines.version import code_version
from shards import ledger, schema
from shards.ledger import part_name
from shards.storage import Location, read_table, write_table

MICROSECONDS = "microseconds"  # the Beam counter of the time that a stage's own code takes

RESIDENT = "resident"  # Beam's distribution of the bytes of memory that a worker holds
# Of a shuffle, which every part sends each one a piece of its own: bounded, so that pieces are
# long. Of a billion documents a partition has a quarter of a million.
MOST_PARTITIONS = 4096
PAGE = os.sysconf("SC_PAGE_SIZE")

Pieces = list[tuple[int, pa.Table]]  # rows by the partition or part that they go to
Part = tuple[pa.Table, pa.Table]  # documents kept, and ledger rows of those dropped


@dataclass(frozen=True)
class Place:
    """Where a stage reads and writes; small and picklable, it travels to the workers."""

    stage: str
    run: Location  # the run's folder
    out: Location  # the folder of the stage's output, named by its fingerprint
    inputs: tuple[Location, ...]  # the folders of the stages whose records it accounts for
    lookups: tuple[Location, ...]  # the folders of stages that it only looks things up in
    parts: int  # how many parts it writes
    # The folder of its earlier output: what that has downloaded is taken over.
    earlier: Location | None = None
    version: str = field(default_factory=code_version)  # of the submitter's code

    def read(self, part: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Part `part` of the first input's documents, or some columns of it."""
        return read_table(self.inputs[0] / "documents" / f"{part_name(part)}.parquet", columns)

    def has(self, part: int) -> bool:
        """Whether an earlier, interrupted run has written the part."""
        return ledger.part_is_done(self.out, part)

    def write(
        self,
        part: int,
        output: pa.Table | None,
        drops: pa.Table,
        *,
        read: Mapping[str, int],
        kept: Mapping[str, int],
        kind: str = "documents",
        measures: pa.Table | None = None,
    ) -> None:
        """Write a part with its account, and tell Beam's metrics of it.

        Raises:
            RuntimeError: this worker runs other code than the process that submitted the job.
        """
        if self.version != code_version():
            raise RuntimeError(
                "this worker has another version of mixwright than the process that submitted the "
                "job: restart its pool, or build its image again"
            )
        if measures is not None:
            write_table(self.out / "measures" / f"{part_name(part)}.parquet", measures)
        ledger.write_part(self.out, part, output, drops, read=read, kept=kept, kind=kind)
        for name, records in (("read", read), ("kept", kept)):
            self.count(name, next(iter(records.values()), 0))
        self.count("lost", pc.sum(pc.not_equal(drops["kind"], ledger.REPORTED)).as_py() or 0)
        self.count("bytes", output.nbytes if output is not None else 0)

    def count(self, name: str, amount: int) -> None:
        """Add to one of the stage's Beam counters."""
        Metrics.counter(self.stage, name).inc(amount)

    def sent(self, pieces: Pieces) -> Pieces:
        """Count what goes through a shuffle."""
        self.count("shuffled", sum(table.nbytes for _, table in pieces))
        return pieces

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Add the time of a block to the stage's own, on whichever worker it runs."""
        started = time.perf_counter()
        yield
        self.count(MICROSECONDS, int((time.perf_counter() - started) * 1e6))
        Metrics.distribution(self.stage, RESIDENT).update(_resident_bytes())


def _resident_bytes() -> int:
    """The memory of this process now; the peak of its life would be that of another stage."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE
    except FileNotFoundError:  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@dataclass(frozen=True)
class Stage:
    """What to build and everything that its output depends on."""

    name: str  # "captions/download"
    build: Callable[[Any, Place], Any]  # from the part numbers to read to those written
    config: Any  # what the fingerprint hashes, as JSON can say it
    modules: tuple[str, ...]  # names of the modules whose code the output depends on
    inputs: tuple[str, ...] = ()
    lookups: tuple[str, ...] = ()
    files: tuple[Location, ...] = ()  # files from outside the run
    # How many parts it writes, from the finished folders of its inputs (its lookups, if it has no
    # inputs). None: part i of the first input becomes part i of this stage.
    parts: Callable[[Sequence[Location]], int] | None = None
    # The graph of a job that has to run before the stage's own, asked for until there is none.
    before: Callable[[Place], Callable[[Any], Any] | None] | None = None
    finish: Callable[[Place], None] | None = None  # once, when all parts are there
    # The reasons of images that another run may cure.
    temporary: frozenset[str] = frozenset()
    selects: bool = False  # keeping everything or nothing is then worth a warning


def write_documents(
    place: Place,
    part: int,
    read: pa.Table,
    result: Part,
    *,
    images: bool = False,
    measures: pa.Table | None = None,
) -> None:
    """Write part `part` of the output; `images` says that the stage accounts for those too."""
    documents, drops = result
    before, after = {"document": read.num_rows}, {"document": documents.num_rows}
    if images:
        before["image"], after["image"] = image_count(read), image_count(documents)
    place.write(part, documents, drops, read=before, kept=after, measures=measures)


def image_count(documents: pa.Table) -> int:
    """Image parts over all documents."""
    _, parts = schema.flatten_parts(documents)
    return int(parts.field("text").null_count)


# What a stage makes of the documents of a part, and what it measured of them, if anything.
Work = Callable[[pa.Table], tuple[Part, pa.Table | None]]


def map_parts(parts: Any, place: Place, work: Work) -> Any:
    """Write what `work` makes of the documents of every part."""
    return parts | "work" >> beam.Map(_map_part, place, work)


def _map_part(part: int, place: Place, work: Work) -> int:
    with place.clock():
        if not place.has(part):
            documents = place.read(part)
            result, measures = work(documents)
            write_documents(place, part, documents, result, measures=measures)
    return part


def scatter(table: pa.Table, targets: Any) -> Pieces:
    """The rows of a table by their `targets`, one table each, for a shuffle by target."""
    order = np.argsort(np.asarray(targets), kind="stable")
    rows = table.take(pa.array(order))
    numbers, starts = np.unique(np.asarray(targets)[order], return_index=True)
    lengths = np.diff(np.append(starts, len(order)))
    return [
        (int(number), rows.slice(start, length))
        for number, start, length in zip(numbers, starts.tolist(), lengths.tolist(), strict=True)
    ]


def partitions(place: Place) -> int:
    """Into how many a shuffle by key sends what the parts hold."""
    return min(place.parts, MOST_PARTITIONS)


def by_part(parts: Any, tables: Any, columns: pa.Schema) -> Any:
    """Group (part, table) by part; every part is there, if only with an empty table.

    One typed GroupByKey instead of a CoGroupByKey, whose values would be pickled.
    """
    every = parts | "every part" >> beam.Map(_nothing, columns)
    return (every, tables) | "join" >> beam.Flatten() | "by part" >> beam.GroupByKey()


def _nothing(part: int, columns: pa.Schema) -> tuple[int, pa.Table]:
    return part, columns.empty_table()


def filter_stage(
    name: str,
    source: Stage,
    filters: Sequence[FilterSpec],
    *,
    measure_all: bool = False,
) -> Stage:
    """Apply filters in order; a document's reason is that of the first rule that drops it.

    What the rules measured is kept beside the documents. A document that a filter drops is not
    measured by those after it, unless `measure_all` says so.
    """
    return Stage(
        name,
        partial(map_parts, work=partial(_filter, filters=filters, measure_all=measure_all)),
        [[spec.model_dump() for spec in filters], measure_all],
        ("filters.rules", *{FILTERS[spec.name].__module__ for spec in filters}),
        inputs=(source.name,),
        selects=bool(filters),
    )


def _filter(
    documents: pa.Table, filters: Sequence[FilterSpec], measure_all: bool
) -> tuple[Part, pa.Table]:
    verdicts = judge(documents, filters, measure_all=measure_all)
    why, details = verdicts["reason"], verdicts["detail"].to_pylist()
    drops = ledger.drop_rows(documents, why.to_pylist(), details=details)
    measures = verdicts.drop_columns(["reason", "detail"])
    return (documents.filter(why.is_null()), drops), measures


def judge(
    documents: pa.Table, filters: Sequence[FilterSpec], *, measure_all: bool = False
) -> pa.Table:
    """What the rules of some filters say of documents, or of images, a row each.

    Columns: `id`; `reason` and `detail` of the first rule that drops the document, null if none
    does; and one of float32 a rule, named by its reason, null where it was not measured, as
    `shards.measures` reads them.
    """
    n = documents.num_rows
    reasons, details = np.full(n, None, object), np.full(n, None, object)
    view, kept = prose(documents), np.ones(n, bool)
    columns: dict[pa.Field, pa.Array] = {}
    for spec in filters:
        rows = np.arange(n) if measure_all else np.flatnonzero(kept)
        for rule in FILTERS[spec.name](view.take(rows), **spec.thresholds):
            values, unknown = np.zeros(n, np.float32), np.ones(n, bool)
            values[rows], unknown[rows] = rule.values, False
            columns.setdefault(measure_field(rule), pa.array(values, mask=unknown))
            lost = rows[rule.drops() & kept[rows]]
            kept[lost] = False
            reasons[lost], details[lost] = rule.reason, [_detail(rule, v) for v in values[lost]]
    table = pa.table({"id": documents["id"], "reason": pa.array(reasons, pa.string())})
    table = table.append_column("detail", pa.array(details, pa.string()))
    for column, array in columns.items():
        table = table.append_column(column, array)
    return table


def measure_field(rule: Rule) -> pa.Field:
    """The column of what a rule measured; its metadata are the bounds, as `shards.measures` says.

    Rules of one name, as of a filter that a recipe lists twice, share the column of the first.
    """
    bounds = {"min": rule.min, "max": rule.max}
    known = {name: repr(float(limit)) for name, limit in bounds.items() if limit is not None}
    return pa.field(rule.reason, pa.float32(), metadata={"fixed": ""} if rule.fixed else known)


def measures_of(documents: pa.Table, rules: Sequence[Rule]) -> pa.Table:
    """What a step measured of documents, as `shards.measures` reads it; rules may be unbound."""
    fields = [documents.schema.field("id"), *map(measure_field, rules)]
    columns = [pa.array(rule.values, pa.float32()) for rule in rules]
    return pa.table([documents["id"], *columns], schema=pa.schema(fields))


def _detail(rule: Rule, value: np.float32) -> str | None:
    """The measured value beside the bound that it broke."""
    if rule.fixed:
        return None
    if rule.min is not None and value < np.float32(rule.min):
        return f"{value:.6g} < {rule.min:g}"
    return f"{value:.6g} > {rule.max:g}"
