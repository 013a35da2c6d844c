"""Near-dedupe beside text-dedup's MinHash and datasketch's index, and how it grows.

Documents come from benchmarks/corpus.py: one of ten is an exact copy, one a near copy of a known
level, one a link of a chain. What has to be found is counted, not assumed: the Jaccard similarity
of all pairs that share a shingle.

- Pairs: of those that exact Jaccard finds at 0.8, the share that is linked (recall); of those
  linked, the share that it finds (precision). FineWeb's bands as they are, and verified.
- Survivors: of the exact pairs, the share of which at most one document survives (recall); of the
  documents dropped, the share with an exact partner at 0.8 (precision). A chain costs precision
  here: its ends are less alike than the links by which they hang together.
- Time: CPU seconds of all processes a document, start-up apart, as the slope between two sizes of
  the whole dedupe: reading documents, signatures, bands, clusters, writing the survivors. Ours
  runs as a run's stage does, on the local engine; text-dedup by its command, with its defaults
  (5-grams, 250 permutations), at the same threshold.

    make bench-text_dedupe ARGS=--quick              # less than a minute, once text-dedup is there
    make bench-text_dedupe
    make bench-text_dedupe ARGS="--growth 10000 100000 1000000"
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import apache_beam as beam
import checkout  # noqa: F401  imports of the project come from here
import corpus
import numpy as np
import peers
import psutil
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions
from datasketch import MinHash, MinHashLSH
from scipy import sparse

from filters import minhash
from pipelines.config.steps import Dedupe, Near
from pipelines.duplicates import alike
from pipelines.duplicates.dedupe import dedupe_stage
from pipelines.engines.forks import forks
from pipelines.stage import Place, Stage
from shards import ledger, schema
from shards.storage import Location, names, read_table

TEXT_DEDUP = "text-dedup==0.4.0"
SIMILARITY = 0.8
FINEWEB = Dedupe(near=Near())
VERIFIED = Dedupe(near=Near(verify=SIMILARITY))
BOTH = {"dedupe": FINEWEB, "dedupe_verified": VERIFIED}
QUICK_DOCUMENTS, QUICK = 800, {"dedupe": FINEWEB}
PART = 5000  # documents of a part, about as many as a WARC file leaves of prose
MORE = 10  # times as many documents of ours, which start-up would hide otherwise
TICK = 0.2  # seconds between looks at the memory of all processes

Pairs = set[tuple[int, int]]
Figures = dict[str, Any]


# Material


def make_input(folder: Path, documents: int, part: int = PART) -> Path:
    """The output of a finished stage: made documents, in parts. What is there stays."""
    out = folder / f"made-{documents}-{part}" / "out"
    if not (out.parent / ledger.STAGE_FILE).exists():
        parts = range(0, documents, part)
        for number, first in enumerate(parts):
            rows = map(_row, range(first, min(first + part, documents)))
            table, nothing = schema.documents(rows), schema.DROP.empty_table()
            counts = {"document": table.num_rows}
            ledger.write_part(out, number, table, nothing, read=counts, kept=counts)
        _commit(out, len(parts))
    return out


def _row(number: int) -> dict[str, Any]:
    made = corpus.document(number)
    return schema.document("made", made["url"], [schema.text_part(made["text"])]) | {
        "id": made["id"]
    }


def _commit(out: Location, parts: int) -> None:
    counts = asdict(ledger.sum_counts(out, parts))
    about = {"folder": out.name, "parts": parts, "holds": names(out), "counts": counts}
    ledger.commit(out.parent, about)


def make_lines(folder: Path, documents: int) -> Path:
    """The same documents as JSON lines, for others."""
    path = folder / f"made-{documents}.jsonl"
    if not path.exists():
        rows = ({"id": each["id"], "text": each["text"]} for each in corpus.documents(documents))
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


# Runs


def run_dedupe(given: Path, out: Path, options: Dedupe, workers: int) -> Place:
    """The dedupe stage of a run over made documents, on the local engine."""
    source = Stage("text/made", lambda parts, place: parts, None, ())
    stage = dedupe_stage("text/dedupe", source, options)
    place = Place(stage.name, out.parent, out / "out", (given,), (), ledger.part_count(given))
    engine = PipelineOptions(
        [
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={workers}",
        ]
    )
    while stage.before and (graph := stage.before(place)):
        with beam.Pipeline(options=engine) as pipeline:
            graph(pipeline)
    with beam.Pipeline(options=engine) as pipeline:
        parts = pipeline | beam.Create(range(place.parts), reshuffle=False) | beam.Reshuffle()
        stage.build(parts, place)
    _commit(place.out, place.parts)
    return place


@dataclass
class Usage:
    """What a command took, over all of its processes: seconds of CPU, bytes of memory."""

    cpu: float = 0.0
    wall: float = 0.0
    memory: int = 0
    largest: int = 0  # of one process


def measured(command: Sequence[str | Path], **variables: str) -> Usage:
    """Run a command to its end; raises CalledProcessError, with what it said, if it fails."""
    usage, before = Usage(), resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    with tempfile.TemporaryFile() as said:
        environment = os.environ | variables
        process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        with _watched(process.pid, usage):
            code = process.wait()
        if code:
            said.seek(0)
            print(said.read().decode(), file=sys.stderr)
            raise subprocess.CalledProcessError(code, command)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    usage.wall = time.perf_counter() - started
    usage.cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return usage


@contextmanager
def _watched(pid: int, usage: Usage) -> Iterator[None]:
    """Look at the memory of a process and those that it starts, until the block is left."""
    done = threading.Event()

    def watch() -> None:
        while not done.wait(TICK):
            sizes = list(_sizes(pid))
            usage.memory = max(usage.memory, sum(sizes))
            usage.largest = max([usage.largest, *sizes])

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _sizes(pid: int) -> Iterator[int]:
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            yield process.memory_info().rss
        except psutil.NoSuchProcess:
            continue


def ours(folder: Path, documents: int, options: Dedupe, workers: int = 1) -> Usage:
    """A process that dedupes `documents` made documents with the local engine."""
    given, out = make_input(folder, documents), folder / f"ours-{documents}-{workers}"
    subprocess.run(["rm", "-rf", out], check=True)
    recipe = options.model_dump_json(exclude_unset=True)
    arguments = ["--child", recipe, str(given), str(out), str(workers)]
    return measured([sys.executable, __file__, *arguments])


def text_dedup(folder: Path, documents: int) -> Usage:
    """A process of text-dedup over the same documents."""
    python, lines = peers.environment("text-dedup", [TEXT_DEDUP]), make_lines(folder, documents)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        options: dict[str, object] = {
            "path": "json",
            "data_files": lines,
            "split": "train",
            "column": "text",
            "threshold": SIMILARITY,
            "output": folder / f"theirs-{documents}",
            "num_proc": 1,
            "cache_dir": Path(fresh, "cache"),
        }
        given = [str(each) for name, value in options.items() for each in (f"--{name}", value)]
        command = [str(python), "-m", "text_dedup.minhash", *given]
        return measured(command, HF_HOME=f"{fresh}/home", HF_HUB_OFFLINE="1")


def slope(small: Usage, large: Usage, documents: int) -> float:
    """Milliseconds of CPU for each document more."""
    return (large.cpu - small.cpu) * 1000 / documents


# Truth


@dataclass(frozen=True)
class Truth:
    """What exact Jaccard finds among some documents."""

    texts: list[str]
    ids: list[str]
    pairs: Pairs = field(default_factory=set)

    @property
    def paired(self) -> set[int]:
        """Documents with a duplicate."""
        return {end for pair in self.pairs for end in pair}


def exact(documents: int, similarity: float = SIMILARITY) -> Truth:
    """The pairs whose shingles have at least this Jaccard similarity, of all pairs."""
    rows = list(corpus.documents(documents))
    sets = [minhash.shingles(row["text"]) for row in rows]
    sizes = np.array([len(each) for each in sets])
    shingles, columns = np.unique(np.concatenate(sets), return_inverse=True)
    shape = documents, len(shingles)
    ones = np.ones(len(columns), np.int32)
    has = sparse.csr_matrix((ones, (np.repeat(np.arange(documents), sizes), columns)), shape)
    shared = sparse.triu(has @ has.T, k=1).tocoo()
    a, b = shared.row, shared.col
    enough = shared.data >= similarity * (sizes[a] + sizes[b] - shared.data)
    pairs = set(zip(a[enough].tolist(), b[enough].tolist(), strict=True))
    return Truth([row["text"] for row in rows], [row["id"] for row in rows], pairs)


def linked(truth: Truth, near: Near) -> Pairs:
    """The pairs that share a band, and pass the verification if there is one."""
    bands, rows = near.banding
    keys = minhash.band_keys(truth.texts, ngram=near.ngram, bands=bands, rows=rows)
    number = np.repeat(np.arange(len(keys)), bands)
    named = pa.table([keys.ravel(), number.astype(np.uint64), number], schema=alike.NAMED)
    pairs = set(zip(*(ends.tolist() for ends in alike.candidates(named)), strict=True))
    if near.verify is None:
        return pairs
    sets = {i: minhash.shingles(truth.texts[i], ngram=near.ngram) for pair in pairs for i in pair}
    return {(a, b) for a, b in pairs if minhash.jaccard(sets[a], sets[b]) >= near.verify}


def pair_figures(truth: Truth, found: Pairs) -> Figures:
    """Recall and precision of pairs."""
    right = len(found & truth.pairs)
    return {"recall": right / len(truth.pairs), "precision": right / max(1, len(found))}


def survivor_figures(truth: Truth, kept: set[str]) -> Figures:
    """Recall and precision of what is left, by the ids of the survivors."""
    left = {i for i, name in enumerate(truth.ids) if name in kept}
    both = sum(a in left and b in left for a, b in truth.pairs)
    dropped = set(range(len(truth.ids))) - left
    right = len(dropped & truth.paired)
    return {"recall": 1 - both / len(truth.pairs), "precision": right / max(1, len(dropped))}


def survivors(out: Path) -> set[str]:
    """The ids of what a dedupe of ours has kept."""
    files = ledger.part_files(out / "out", "documents")
    return {name for file in files for name in read_table(file, ["id"])["id"].to_pylist()}


def their_survivors(folder: Path) -> set[str]:
    """The ids of what text-dedup has kept."""
    kept: set[str] = set()
    for file in sorted(folder.glob("*.arrow")):
        kept.update(pa.ipc.open_stream(file).read_all()["id"].to_pylist())
    return kept


def datasketch(truth: Truth, permutations: int = 128) -> tuple[Pairs, float]:
    """The pairs of datasketch's own index over its own signatures, and milliseconds a document."""
    started = time.process_time()
    index, found = MinHashLSH(threshold=SIMILARITY, num_perm=permutations), set()
    for i, text in enumerate(truth.texts):
        words = text.lower().split()
        sketch = MinHash(permutations)
        runs = range(max(1, len(words) - 4))
        sketch.update_batch([" ".join(words[k : k + 5]).encode() for k in runs])
        found |= {(other, i) for other in index.query(sketch)}
        index.insert(i, sketch)
    return found, (time.process_time() - started) * 1000 / len(truth.texts)


# Comparisons


def compare(
    documents: int = 4000, folder: Path | None = None, variants: Mapping[str, Dedupe] = BOTH
) -> Figures:
    """Ours, text-dedup and datasketch on the same documents, printed and as one dict."""
    if folder is None:
        with tempfile.TemporaryDirectory() as name:
            return compare(documents, Path(name), variants)
    truth, few = exact(documents), documents // 8
    figures: Figures = {"dedupe_documents": documents, "dedupe_pairs": len(truth.pairs)}
    for name, options in variants.items():
        assert options.near, "or there is nothing to compare"
        figures |= _named(f"{name}_pair", pair_figures(truth, linked(truth, options.near)))
        small, large = ours(folder, documents, options), ours(folder, MORE * documents, options)
        kept = survivors(folder / f"ours-{documents}-1")
        figures |= _named(f"{name}_survivor", survivor_figures(truth, kept))
        figures[f"{name}_cpu_ms"] = slope(small, large, (MORE - 1) * documents)
    small, large = text_dedup(folder, few), text_dedup(folder, documents)
    theirs = survivor_figures(truth, their_survivors(folder / f"theirs-{documents}"))
    figures |= _named("text_dedup_survivor", theirs)
    figures["text_dedup_cpu_ms"] = slope(small, large, documents - few)
    found, figures["datasketch_cpu_ms"] = datasketch(truth)
    figures |= _named("datasketch_pair", pair_figures(truth, found))
    for name in variants:
        figures[f"{name}_cpu_ratio"] = figures["text_dedup_cpu_ms"] / figures[f"{name}_cpu_ms"]
    _print(figures)
    return figures


def _named(prefix: str, figures: Mapping[str, float]) -> Figures:
    return {f"{prefix}_{name}": value for name, value in figures.items()}


def _print(figures: Figures) -> None:
    print(
        f"\n{figures['dedupe_documents']} made documents with {figures['dedupe_pairs']} pairs of a "
        f"Jaccard similarity of {SIMILARITY} or more"
    )
    shown = {
        "ours, FineWeb's 14 x 8": "dedupe",
        f"ours, verified at {SIMILARITY}": "dedupe_verified",
        "text-dedup": "text_dedup",
        "datasketch's index alone": "datasketch",
    }
    print(f"{'':26}{'pairs: recall precision':>26}{'survivors: recall precision':>30}{'CPU ms':>9}")
    for label, name in shown.items():
        if f"{name}_cpu_ms" not in figures:
            continue
        cells = [
            f"{figures[key]:.3f}" if (key := f"{name}_{what}") in figures else "-"
            for what in ("pair_recall", "pair_precision", "survivor_recall", "survivor_precision")
        ]
        print(
            f"{label:26}{cells[0]:>16}{cells[1]:>10}{cells[2]:>20}{cells[3]:>10}"
            f"{figures[f'{name}_cpu_ms']:>9.3f}"
        )


def growth(sizes: Sequence[int], folder: Path, workers: int, options: Dedupe) -> Figures:
    """Cost a document and memory of our dedupe by size."""
    print(f"\n{workers} worker(s), {PART} documents a part")
    return grown("documents", sizes, lambda size: ours(folder, size, options, workers))


def grown(what: str, sizes: Sequence[int], run: Callable[[int], Usage]) -> Figures:
    """Cost of each of `what` and memory by size, printed as they are found, and as figures.

    `growth_cost_ratio` is the cost at the last size but one over that at the last.
    """
    figures: Figures = {}
    print(f"{what:>10}{'CPU ms each':>13}{'wall s':>9}{'MB of all':>11}{'MB of one':>11}")
    for size in sizes:
        used = run(size)
        each = used.cpu * 1000 / size
        print(
            f"{size:>10,}{each:>13.3f}{used.wall:>9.1f}{used.memory / 1e6:>11,.0f}"
            f"{used.largest / 1e6:>11,.0f}",
            flush=True,
        )
        figures |= {f"growth_{size}_cpu_ms": each, f"growth_{size}_memory": used.memory}
        figures[f"growth_{size}_largest"] = used.largest
    if len(sizes) > 1:
        before, last = (figures[f"growth_{size}_cpu_ms"] for size in sizes[-2:])
        figures["growth_cost_ratio"] = before / last
    return figures


def main() -> None:
    """Compare, or measure growth; the last line is all figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_DOCUMENTS} documents, and not verified"
    )
    parser.add_argument("--documents", type=int, default=4000, help="compared, and ten times more")
    parser.add_argument("--growth", type=int, nargs="*", default=[], help="sizes to grow over")
    parser.add_argument("--verify", action="store_true", help="grow with verification")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where to keep documents (default: nowhere)")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        recipe, given, out, workers = options.child
        with forks():
            run_dedupe(Path(given), Path(out), Dedupe.model_validate_json(recipe), int(workers))
        return
    with tempfile.TemporaryDirectory() as fresh:
        folder = options.folder or Path(fresh)
        folder.mkdir(parents=True, exist_ok=True)
        if options.growth:
            wanted = VERIFIED if options.verify else FINEWEB
            figures = growth(options.growth, folder, options.workers, wanted)
        else:
            size = QUICK_DOCUMENTS if options.quick else options.documents
            figures = compare(size, folder, QUICK if options.quick else BOTH)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
