"""How time, shuffles and memory grow with documents and workers, and what 10^9 would take.

Documents are recombined from real ones, half of them captioned pictures and half pages:

- Real: the words, the HTML around and inside paragraphs, every picture, all of the bundled
  sample. Real, too, are the stages, the engines, HTTP and the files.
- Recombined: a caption is a picture's own with another's words after it; a page is the frame of
  one page around paragraphs of others, by hash, so that texts differ. One document of ten repeats
  another under a URL of its own. Pictures are few and their URLs many: every URL is downloaded,
  stored, filtered and scored, but images have to be told apart by picture *and* caption, so that
  the corpus of captions is deduplicated by content, and thresholds on the score keep all.

A size runs in four jobs on each engine with one and with two workers (Spark: executors of one
core, with a pool of Python processes): `text` (extract to dedupe), `captions` (read to dedupe),
`score` (CLIP alone, as `--only captions/clip`) and `mix` (the threshold, packing, shards).

Start-up is measured by jobs of one element a worker: a bare one, one whose workers load what the
text job loads, and one that loads the image-text model. What a speed-up compares is the wall time
of a job less that of the start-up job with the same imports: it holds the shuffles and whatever
else the engine does while documents are processed, not the start of JVMs and Python.

A job's figures are kept in --folder when it is done: the same command goes on from there, and a
folder of its own measures afresh. For figures to quote the machine has to be otherwise idle.

    make bench-scale                                       # an hour or more on two cores
    make bench-scale ARGS="--engines spark --documents 10000 100000"
    make bench-scale ARGS=--quick                          # local only, less than a minute
"""

import argparse
import csv
import html
import json
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import blake2b
from math import ceil, expm1, log1p
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

import apache_beam as beam
import checkout
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pipelines import mix
from pipelines.config.recipe import Recipe, load_recipe
from pipelines.config.steps import Near
from pipelines.demo import HOSTS, SAMPLE
from pipelines.duplicates import clusters, dedupe, near
from pipelines.engines.coders import TableCoder
from pipelines.engines.runners import pipeline_options
from pipelines.fetching.crawl import Response, open_warc, write_response
from pipelines.fetching.download import REQUEST
from pipelines.fetching.site import Site, serve
from pipelines.recipe import selected, stages_of
from pipelines.run import execute, plan
from pipelines.stage import MICROSECONDS, MOST_PARTITIONS, RESIDENT, Place
from pipelines.terminal.status import begin
from shards import ledger, schema
from shards.storage import write_atomic

DEMO = checkout.ROOT / "configs" / "demo.yaml"

LONGER = 2  # times its start-up that a job has to take for what is left to say anything

COPIES = 10  # one document of so many repeats another
VIRTUAL = 32  # hosts that each host of pictures is known by, so that downloads spread
PARAGRAPHS = 8, 16  # of a page; with the sample's they make about the 500 words of a web page
LONG = 200  # characters from which a paragraph is taken for prose
MADE = "http://prose.mixwright.example/made"

JOBS = {"text": "text/dedupe", "captions": "captions/dedupe", "score": "captions/clip", "mix": ""}
STARTED = ("text", "score")  # the jobs whose start-up is measured, by what their workers load

TARGET = 10**9
TARGET_PART = 10_000  # documents a part that a run of that size would choose
# What pipelines.engines.runners sets for local workers, here for those of the pool as well.
MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**28), "MALLOC_TRIM_THRESHOLD_": str(2**28)}

Figures = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is measured on each engine."""

    sizes: Sequence[int]  # documents, rising
    part: int = 250  # documents a part
    rounds: int = 3  # of start-up jobs, of which the median counts
    one: Sequence[str] = tuple(JOBS)  # the jobs that one worker runs
    two: Sequence[str] = tuple(JOBS)


def quick_plan() -> Plan:
    """Everything once, if too small to say much."""
    return Plan(sizes=[200], part=25, rounds=1, one=["text"])


# Material


def drawn(number: int, what: str) -> int:
    """A number that depends on nothing but the document's and what it is drawn for."""
    return int.from_bytes(blake2b(f"{what}:{number}".encode(), digest_size=8).digest(), "big")


def original(number: int) -> int:
    """The document whose content document `number` has: its own, or of a copy an earlier one's."""
    if number % COPIES != COPIES - 1:
        return number
    earlier = drawn(number, "copy") % number
    return earlier - (earlier % COPIES == COPIES - 1)


def planted(documents: int) -> int:
    """How many of the first `documents` are copies."""
    return documents // COPIES


@dataclass(frozen=True)
class Frame:
    """A real page, cut where its first paragraph stands, without its paragraphs."""

    head: str
    foot: str


@dataclass(frozen=True)
class Sample:
    """What documents are made of."""

    captions: list[tuple[str, str]]  # URL and caption
    tails: list[str]  # the captions that there are, each once
    frames: list[Frame]
    paragraphs: list[str]

    def caption(self, number: int) -> tuple[str, str]:
        """A URL of its own and the caption; pairs differ up to captions x tails (500,000)."""
        same, n = original(number), len(self.captions)
        url, own = self.captions[same % n]
        other = self.tails[(same // n + same) % len(self.tails)]
        host, path = urlsplit(url).netloc.split(".", 1), urlsplit(url).path
        alias = f"{host[0]}-{drawn(number, 'host') % VIRTUAL:02d}.{host[1]}"
        return f"http://{alias}{path}?copy={number}", f"{own}, {other}"

    def page(self, number: int) -> str:
        """HTML: a frame around paragraphs of any pages."""
        same = original(number)
        frame = self.frames[drawn(same, "frame") % len(self.frames)]
        low, high = PARAGRAPHS
        count = low + drawn(same, "length") % (high - low + 1)
        chosen = (drawn(same, f"paragraph {i}") % len(self.paragraphs) for i in range(count))
        return "\n".join([frame.head, *(self.paragraphs[i] for i in chosen), frame.foot])


def read_sample() -> Sample:
    """The clean part of the bundled sample."""
    rows = pq.read_table(SAMPLE / "captions.parquet").to_pylist()
    clean = [r for r in rows if r["url"] and r["caption"] and "made by" not in r["source"]]
    bodies = [body for body in map(_body, _clean_pages()) if body]
    found = [PARAGRAPH.findall(body) for body in bodies]
    paragraphs = sorted({p for page in found for p in page if len(p) >= LONG})
    frames = [_frame(body) for body, page in zip(bodies, found, strict=True) if page]
    captions = [(row["url"], row["caption"]) for row in clean]
    return Sample(captions, sorted({text for _, text in captions}), frames, paragraphs)


PARAGRAPH = re.compile(r"<p\b[^>]*>.*?</p>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
MOST_FRAME_WORDS = 60  # more would make pages of one frame near-duplicates


def _clean_pages() -> Iterator[Path]:
    with (SAMPLE / "pages.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["kind"] == "text" and row["language"] == "en" and not row["dirt"]:
                url = urlsplit(row["url"])
                path = SAMPLE / "www" / url.netloc / url.path.lstrip("/")
                yield path / "index.html" if path.is_dir() else path


def _body(path: Path) -> str | None:
    """A page's HTML if there are few words beside its paragraphs."""
    text = path.read_text(encoding="utf-8", errors="replace")
    rest = html.unescape(TAG.sub(" ", PARAGRAPH.sub("", text)))
    return text if len(rest.split()) <= MOST_FRAME_WORDS else None


def _frame(body: str) -> Frame:
    first = next(PARAGRAPH.finditer(body)).start()
    return Frame(body[:first], PARAGRAPH.sub("", body[first:]))


def make_input(folder: Path, documents: int, part: int) -> None:
    """`documents` documents below `folder`; `part` pages a WARC. What is there stays."""
    if (folder / "captions.parquet").exists():
        return
    sample, half = read_sample(), documents // 2
    (folder / "text").mkdir(parents=True, exist_ok=True)
    for first in range(0, half, part):
        numbers = range(first, min(first + part, half))
        pages = ((f"{MADE}/{number}.html", sample.page(number)) for number in numbers)
        write_warc(folder / "text" / f"pages-{first // part:06d}.warc.gz", pages)
    pairs = [sample.caption(number) for number in range(half)]
    table = pa.table({"url": [url for url, _ in pairs], "caption": [text for _, text in pairs]})
    pq.write_table(table, folder / "captions.part")
    (folder / "captions.part").rename(folder / "captions.parquet")


def write_warc(path: Path, pages: Iterable[tuple[str, str]]) -> None:
    """A crawl of `pages`, each its URL and HTML. What is there stays."""
    if path.exists():
        return
    headers = (("Content-Type", "text/html; charset=utf-8"),)
    with open_warc(path) as writer:
        for url, page in pages:
            write_response(writer, url, Response(200, "OK", headers, page.encode(), cut=False))


@contextmanager
def pictures() -> Iterator[Site]:
    """The sample's hosts on loopback, each under many names."""
    with tempfile.TemporaryDirectory() as name:
        hosts = Path(name, "www")
        hosts.mkdir()
        for folder in (SAMPLE / "www").iterdir():
            first, rest = folder.name.split(".", 1)
            for number in range(VIRTUAL):
                (hosts / f"{first}-{number:02d}.{rest}").symlink_to(folder)
        Path(name, "site.yaml").write_text("{}")
        with serve(Path(name)) as site:
            yield site


def write_recipe(path: Path, given: Path, out: Path, part: int, runner: Figures) -> None:
    """The demo's recipe on made input, without what a run on so few pictures cannot have."""
    tree: Figures = yaml.safe_load(DEMO.read_text())
    captions, text = tree["corpora"]["captions"], tree["corpora"]["text"]
    captions["read"] = {"files": [str(given / "captions.parquet")], "rows_per_part": part}
    *_, unique, _, threshold = captions["steps"]
    unique["dedupe"] = {"exact": ["content"]}
    threshold["filter_images"] = [{"image_similarity": {"min": -1.0}}]
    text["read"]["files"] = [str(given / "text" / "*.warc.gz")]
    tree |= {"out": str(out), "runner": runner, "corpora": {"captions": captions, "text": text}}
    tree["download"] = {"per_host_rate": 1e6, "per_host_concurrency": 16}
    tree["mix"] |= {"weights": {"captions": 1, "text": 1}, "documents_per_partition": 2 * part}
    path.write_text(yaml.safe_dump(tree))


# Jobs


@dataclass(frozen=True)
class Setting:
    """An engine with its workers, and the recipe's runner section for it."""

    engine: str
    workers: int
    runner: Figures


@contextmanager
def setting(engine: str, workers: int, folder: Path) -> Iterator[Setting]:
    """An engine that is ready for jobs; of Spark, a cluster and a pool of Python workers."""
    if engine == "local":
        yield Setting(engine, workers, {"engine": "local", "workers": workers})
        return
    from tests.spark.cluster import cluster, worker_pool

    with ExitStack() as stack:
        logs = folder / f"spark-{workers}"
        spark = stack.enter_context(cluster(logs, workers, executor_memory="2g"))
        pool = stack.enter_context(worker_pool(logs))
        reached = {"job_endpoint": spark.job_endpoint, "environment": "external", "pool": pool}
        options = {"files_to_stage": spark.files_to_stage}
        yield Setting(engine, workers, {"engine": "spark", "spark": reached, "options": options})


def why_not(engine: str) -> str | None:
    """What an engine lacks here."""
    if engine == "local":
        return None
    from tests.spark.cluster import missing_tools

    return f"not on PATH: {', '.join(missing)}" if (missing := missing_tools()) else None


def _warm(number: int, what: str) -> int:
    """Have this worker load what the workers of a job load, and no more: so imports are here."""
    if what == "text":
        from filters import language, minhash

        language.identify(["A text"])
        minhash.signatures(["a text of some words"])
    elif what == "score":
        from pipelines.config.steps import Clip
        from pipelines.scores.score import _loaded

        _loaded(Clip().model, None)
    return number


def start_up(recipe: Recipe, what: str, workers: int) -> Figures:
    """A job of one element a worker; `what` its workers load."""
    started = time.perf_counter()
    with beam.Pipeline(options=pipeline_options(recipe)) as pipeline:
        numbers = pipeline | beam.Create(range(workers), reshuffle=False) | beam.Reshuffle()
        _ = numbers | beam.Map(_warm, what)
    return {"wall": time.perf_counter() - started}


def run_job(recipe: Recipe, only: str | None) -> Figures:
    """Run the stages that lead to `only` and are not done, with what they say of themselves."""
    done: Figures = {}
    waves: list[float] = []

    @contextmanager
    def watch(places: Mapping[str, Place]) -> Iterator[None]:
        done.update({name: {"parts": place.parts} for name, place in places.items()})
        started = time.perf_counter()
        yield
        waves.append(time.perf_counter() - started)

    def finished(name: str, counts: ledger.Counts, metrics: Mapping[str, int]) -> None:
        done[name] |= {"metrics": dict(metrics), "counts": asdict(counts)}

    stages = selected(stages_of(recipe), only)
    begin(recipe.out, [stage.name for stage in stages], recipe.runner.engine, {})
    started = time.perf_counter()
    execute(
        recipe.out, plan(recipe.out, stages), pipeline_options(recipe), watch=watch, done=finished
    )
    whole = time.perf_counter() - started
    return {"stages": done, "wall": sum(waves), "jobs": waves, "between": whole - sum(waves)}


def clear(recipe: Recipe, only: str | None, measured: Iterable[str]) -> None:
    """Remove the stages of a job that was interrupted: the rest of its work must not be timed."""
    for stage in selected(stages_of(recipe), only):
        if stage.name not in measured and isinstance(recipe.out, Path):
            shutil.rmtree(recipe.out / stage.name, ignore_errors=True)


def measured(work: Callable[[], Figures], file: Path) -> Figures:
    """What `work` returns, run in a process of its own and kept in `file`; done work is read.

    Added to it are the largest resident sets seen, in bytes: of the process that submits jobs,
    and of all processes that this one has started, together.
    """
    if not file.exists():
        aside = file.with_suffix(".new")
        context = multiprocessing.get_context("fork")
        process = context.Process(target=_write_figures, args=(work, aside), daemon=True)
        process.start()
        submitter, family = _watch_memory(process)
        if process.exitcode:
            raise SystemExit(f"{file.stem} failed; the same command goes on from here")
        figures = json.loads(aside.read_text()) | {"submitter": submitter, "memory": family}
        write_atomic(file, json.dumps(figures).encode())
        aside.unlink()
    return dict(json.loads(file.read_text()))


def _write_figures(work: Callable[[], Figures], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(work()).encode())


def _watch_memory(process: BaseProcess) -> tuple[int, int]:
    """The largest memory, until it ends, of a process and of this one's whole family."""
    submitter, own, family = psutil.Process(process.pid), 0, 0
    while process.is_alive():
        own = max(own, _resident(submitter))
        family = max(family, sum(map(_resident, psutil.Process().children(recursive=True))))
        process.join(1.0)
    return own, family


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def measure(
    setting: Setting, jobs: Sequence[str], documents: int, part: int, site: Site, folder: Path
) -> Figures:
    """The jobs of a size on an engine; the run's folder goes when all are done."""
    where = f"{setting.engine}-{setting.workers}-{documents}"
    given, figures = folder / f"input-{documents}", folder / "figures" / where
    out, path = folder / "runs" / where, folder / f"{where}.yaml"
    write_recipe(path, given, out, part, setting.runner)
    connect = f"download.connect_to={json.dumps({HOSTS: site.address})}"
    recipe = load_recipe(path, [connect])
    found: Figures = {}
    for job in jobs:
        only = JOBS[job] or None
        if not (figures / f"{job}.json").exists():
            clear(recipe, only, {name for job in found.values() for name in job["stages"]})
        found[job] = measured(partial(run_job, recipe, only), figures / f"{job}.json")
        _print_job(where, job, found[job], documents)
    shutil.rmtree(out, ignore_errors=True)
    return found


def start_ups(setting: Setting, jobs: Sequence[str], plan: Plan, folder: Path) -> dict[str, float]:
    """Seconds of the start-up jobs of an engine, each the median of some."""
    where = f"{setting.engine}-{setting.workers}"
    path, figures = folder / f"{where}.yaml", folder / "figures" / where
    write_recipe(path, folder, folder / "runs" / where, plan.part, setting.runner)
    recipe = load_recipe(path)
    seconds = {}
    for what in ("bare", *(job for job in STARTED if job in jobs)):
        work = partial(start_up, recipe, what, setting.workers)
        files = [figures / f"start-{what}-{number}.json" for number in range(plan.rounds)]
        seconds[what] = median(measured(work, file)["wall"] for file in files)
    said = ", ".join(f"{what} {wall:.1f} s" for what, wall in seconds.items())
    print(f"{where}: start-up of {said}", flush=True)
    return seconds


# Figures


def fit(sizes: Sequence[int], values: Sequence[float]) -> tuple[float, float]:
    """Least squares of values = fixed + slope x size; through zero if there is one size only."""
    if len(sizes) == 1:
        return 0.0, values[0] / sizes[0]
    slope, fixed = np.polyfit(sizes, values, 1)
    return float(fixed), float(slope)


def occupied(places: int, rows: float) -> float:
    """How many of `places` are expected to get any of `rows` that hashes spread over them."""
    return -places * expm1(rows * log1p(-1 / places)) if places > 1 else min(1.0, rows)


def net(wall: float, start: float) -> float | None:
    """A job's time without its start-up; None if noise of the latter would decide."""
    return wall - start if wall > LONGER * start else None


def overhead(columns: pa.Schema) -> int:
    """Bytes of an encoded piece of one row beside those of the row."""
    row = pa.table([pa.nulls(1, field.type) for field in columns], schema=columns)
    return int(len(TableCoder().encode(row)) - row.nbytes)


def piece_seconds(columns: pa.Schema, rounds: int = 200) -> float:
    """Seconds to encode and decode a piece of one row."""
    row = pa.table([pa.nulls(1, field.type) for field in columns], schema=columns)
    coder, started = TableCoder(), time.perf_counter()
    for _ in range(rounds):
        coder.decode(coder.encode(row))
    return (time.perf_counter() - started) / rounds


def part_seconds(rounds: int = 20) -> float:
    """Seconds that a part costs a stage even if it is empty: read, write, account."""
    documents, drops = schema.DOCUMENT.empty_table(), schema.DROP.empty_table()
    with tempfile.TemporaryDirectory() as name:
        place = Place("stage", Path(name), Path(name, "out"), (Path(name, "out"),), (), rounds)
        started = time.perf_counter()
        for part in range(rounds):
            place.has(part)
            place.write(part, documents, drops, read={}, kept={})
            place.read(part)
        return (time.perf_counter() - started) / rounds


Shuffle = tuple[pa.Schema, float]  # the columns and number of the pieces that go through one


def shuffles(stage: str, documents: float, part: int, lost: float, keys: int) -> list[Shuffle]:
    """The pieces that a stage sends when `documents` reach it in parts of `part`.

    `lost` documents of it are duplicates, each in `keys` keys at most, and settle in one round.
    """
    parts = ceil(documents / part)
    partitions = min(parts, MOST_PARTITIONS)
    if stage == "text/dedupe":
        of_lost = partitions * occupied(partitions, 2 * lost / partitions)
        keyed = (near.KEY, parts * occupied(partitions, part * keys))
        linked = [(columns, of_lost) for columns in (near.LINK, near.MEMBER, near.CANDIDATE)]
        return [keyed, *linked, (clusters.EDGE, 2 * of_lost), (near.CANDIDATE, float(parts))]
    if stage.endswith("/dedupe"):
        back = partitions * occupied(parts, lost * keys / partitions)
        out = parts * occupied(partitions, part * keys)
        return [(dedupe.LOSER, out + back + 2 * parts)]
    if stage.endswith("/download"):
        between = parts * occupied(parts, part)
        return [(REQUEST, between), (schema.IMAGE, between + parts)]
    if stage == "pack":
        return [(mix.PIECE, parts * occupied(ceil(documents / TARGET_PART), part) + parts)]
    return []


def stages_by_size(results: Mapping[int, Figures]) -> dict[str, dict[int, Figures]]:
    """The figures of each stage by size."""
    found: dict[str, dict[int, Figures]] = {}
    for size, jobs in results.items():
        for job in jobs.values():
            for name, figures in job["stages"].items():
                found.setdefault(name, {})[size] = figures
    return found


def documents_read(figures: Figures) -> int:
    """The documents, of the shards the sequences, that a stage has read."""
    read = figures["counts"]["read"]
    return int(read.get("document", read.get("sequence", 0)))


@dataclass(frozen=True)
class Cost:
    """What a stage takes for `TARGET` documents."""

    core_hours: float
    terabytes: float  # through shuffles: rows
    piece_terabytes: float  # through shuffles: what each piece costs beside its rows
    pieces: float


def extrapolate(name: str, by_size: Mapping[int, Figures], part: int, per_part: float) -> Cost:
    """Linear in documents, with the slope over the sizes; parts are larger, and pieces counted."""
    sizes = sorted(by_size)
    metrics = [by_size[size]["metrics"] for size in sizes]
    _, seconds = fit(sizes, [m.get(MICROSECONDS, 0) / 1e6 for m in metrics])
    _, sent = fit(sizes, [m.get("shuffled", 0) for m in metrics])
    largest = by_size[sizes[-1]]
    share, parts = documents_read(largest) / sizes[-1], largest["parts"] / sizes[-1]
    dropped = sum(largest["counts"]["dropped"].get("document", {}).values()) / sizes[-1]
    keys = 1 + Near().bands if name == "text/dedupe" else 1
    sends = shuffles(name, share * TARGET, TARGET_PART, dropped * TARGET, keys)
    coded = sum(count * piece_seconds(columns) for columns, count in sends)
    code = (seconds - per_part * parts) * TARGET + per_part * share * TARGET / TARGET_PART
    return Cost(
        (code + coded) / 3600,
        sent * TARGET / 1e12,
        sum(count * overhead(columns) for columns, count in sends) / 1e12,
        sum(count for _, count in sends),
    )


# Printing


def _print_job(where: str, job: str, figures: Figures, documents: int) -> None:
    print(
        f"\n{where}, {job}: {figures['wall']:.1f} s in {len(figures['jobs'])} Beam job(s), "
        f"{figures['between']:.1f} s between; peak memory {figures['memory'] / 1e6:,.0f} MB over "
        f"all processes, {figures['submitter'] / 1e6:,.0f} MB of the submitting one",
        flush=True,
    )
    print(
        f"  {'stage':<26}{'read':>9}{'kept':>9}{'own s':>9}{'/s core':>9}"
        f"{'shuffle B/doc':>15}{'worker MB':>11}"
    )
    for name, stage in figures["stages"].items():
        read, metrics = documents_read(stage), stage["metrics"]
        seconds, kept = metrics.get(MICROSECONDS, 0) / 1e6, stage["counts"]["kept"]
        print(
            f"  {name:<26}{read:>9,}{next(iter(kept.values()), 0):>9,}{seconds:>9.1f}"
            f"{read / max(seconds, 1e-6):>9,.0f}{metrics.get('shuffled', 0) / max(read, 1):>15,.0f}"
            f"{metrics.get(RESIDENT, 0) / 1e6:>11,.0f}",
            flush=True,
        )


def job_figures(
    where: str, workers: int, found: Mapping[str, Figures], starts: Mapping[str, float]
) -> dict[str, float]:
    """The figures of the last line: walls, and which share of the workers' time is stages' own."""
    figures = {}
    for job in starts.keys() & found.keys():
        own = sum(s["metrics"].get(MICROSECONDS, 0) for s in found[job]["stages"].values()) / 1e6
        figures[f"{where}_{job}_s"] = round(found[job]["wall"], 2)
        if time_left := net(found[job]["wall"], starts[job]):
            figures[f"{where}_{job}_busy_ratio"] = round(own / (workers * time_left), 3)
    return dict(sorted(figures.items()))


Walls = Mapping[int, float]  # seconds of a job by size


def speed_ups(
    name: str, one: Walls, two: Walls, start_one: float, start_two: float
) -> dict[str, float]:
    """By how much two workers are faster than one, at each size and by the slopes over sizes."""
    figures = {}
    for size in one.keys() & two.keys():
        ones, twos = net(one[size], start_one), net(two[size], start_two)
        if ones and twos:
            figures[f"{name}_{size}_speedup_ratio"] = round(ones / twos, 3)
    if len(one) > 1 and one.keys() == two.keys():
        slopes = [fit(sorted(walls), [walls[n] for n in sorted(walls)])[1] for walls in (one, two)]
        figures[f"{name}_slope_speedup_ratio"] = round(slopes[0] / slopes[1], 3)
    return figures


def print_speed_ups(
    engine: str,
    results: Mapping[int, Mapping[int, Figures]],
    starts: Mapping[int, Mapping[str, float]],
) -> dict[str, float]:
    """Two workers against one, by job."""
    figures: dict[str, float] = {}
    for job in STARTED:
        one, two = (
            {n: jobs[job]["wall"] for n, jobs in results[workers].items() if job in jobs}
            for workers in (1, 2)
        )
        if not one:
            continue
        first, second = starts[1][job], starts[2][job]
        found = speed_ups(f"{engine}_{job}", one, two, first, second)
        figures |= found
        for size in sorted(one):
            print(
                f"{engine}, {size:,} documents, {job}: {one[size]:.1f} s with one worker, of which "
                f"{first:.1f} s start-up; {two[size]:.1f} s with two, of which {second:.1f} s"
            )
        said = ", ".join(f"{name} {ratio}" for name, ratio in found.items())
        print(f"  {said or 'too short to tell a speed-up: more documents are needed'}")
    return figures


def print_costs(results: Mapping[int, Figures], part: int, engine: str) -> dict[str, float]:
    """The table of what 10^9 documents take; its sums are figures of the last line."""
    per_part = part_seconds()
    stages = stages_by_size(results)
    costs = {name: extrapolate(name, by_size, part, per_part) for name, by_size in stages.items()}
    print(
        f"\n{TARGET:,} documents, half captions and half pages, by the slope over "
        f"{', '.join(f'{size:,}' for size in sorted(results))} documents on {engine}. Assumed: "
        f"cost linear in documents; the shares that stages keep stay; {TARGET_PART:,} documents a "
        f"part (measured with {part}); {1e3 * per_part:.1f} ms a part and stage, as on this disk; "
        "a piece of a shuffle costs its schema and the time of one row's coding. "
        "The engine's own work is not in it; a download's time is waiting for HTTP."
    )
    print(f"  {'stage':<26}{'core hours':>12}{'shuffle TB':>12}{'of pieces TB':>14}{'pieces':>10}")
    for name, cost in costs.items():
        print(
            f"  {name:<26}{cost.core_hours:>12,.0f}{cost.terabytes:>12.2f}"
            f"{cost.piece_terabytes:>14.2f}{cost.pieces:>10.1e}"
        )
    sums = {
        "core_hours": sum(cost.core_hours for cost in costs.values()),
        "shuffle_tb": sum(cost.terabytes for cost in costs.values()),
        "shuffle_pieces_tb": sum(cost.piece_terabytes for cost in costs.values()),
    }
    print("  " + ", ".join(f"{name} {value:,.2f}" for name, value in sums.items()))
    return {f"billion_{name}": round(value, 3) for name, value in sums.items()}


def print_copies(results: Mapping[int, Figures]) -> None:
    """Whether deduplication found what was planted."""
    for name, by_size in stages_by_size(results).items():
        for size, figures in by_size.items():
            if name.endswith("/dedupe"):
                lost = figures["counts"]["dropped"].get("document", {})
                print(f"{name}: planted {planted(size // 2):,} of {size // 2:,}, found {lost}")


def compare(engine: str, plan: Plan, site: Site, folder: Path) -> dict[str, float]:
    """An engine with one and two workers at every size."""
    figures: dict[str, float] = {}
    results: dict[int, dict[int, Figures]] = {}
    starts: dict[int, dict[str, float]] = {}
    for workers, jobs in ((1, plan.one), (2, plan.two)):
        with setting(engine, workers, folder) as ready:
            starts[workers] = start_ups(ready, jobs, plan, folder)
            results[workers] = {
                size: measure(ready, jobs, size, plan.part, site, folder) for size in plan.sizes
            }
        for what, seconds in starts[workers].items():
            figures[f"{engine}_{workers}_start_{what}_s"] = round(seconds, 2)
        for size, found in results[workers].items():
            figures |= job_figures(f"{engine}_{workers}_{size}", workers, found, starts[workers])
    print()
    figures |= print_speed_ups(engine, results, starts)
    print_copies(results[2])
    costs = print_costs(results[2], plan.part, f"{engine} with two workers")
    return figures | {f"{engine}_{name}": value for name, value in costs.items()}


def main() -> None:
    """Read the options and print one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--documents", type=int, nargs="+", default=[10_000, 30_000])
    parser.add_argument("--jobs", choices=JOBS, nargs="+", default=[*JOBS], help="only these")
    parser.add_argument("--engines", type=lambda text: text.split(","), default=["local", "spark"])
    scratch = Path(tempfile.gettempdir(), "mixwright-scale")
    parser.add_argument("--folder", type=Path, default=scratch)
    options = parser.parse_args()
    os.environ |= MEMORY
    with ExitStack() as stack:
        plan = Plan(sorted(options.documents), one=options.jobs, two=options.jobs)
        folder, engines = options.folder, options.engines
        if options.quick:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            plan, engines = quick_plan(), ["local"]
        for documents in plan.sizes:
            make_input(folder / f"input-{documents}", documents, plan.part)
        site = stack.enter_context(pictures())
        figures: dict[str, float] = {}
        for engine in engines:
            if not _skipped(engine):
                figures |= compare(engine, plan, site, folder)
        print(json.dumps(figures))


def _skipped(engine: str) -> bool:
    why = why_not(engine)
    if why:
        print(f"{engine} is left out: {why}")
    return why is not None


if __name__ == "__main__":
    main()
