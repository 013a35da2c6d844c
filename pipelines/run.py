"""Runs stages: skips what is done, finishes what was interrupted, commits what is complete.

Stages chain into as few Beam jobs as they can: a stage whose parts follow from its input's runs
in the same job. Only one that has to count its inputs first (packing, shards), or to run jobs of
its own before (the rounds of a dedupe), waits for them.

A stage's fingerprint hashes its config, its code, its input files and the fingerprints of the
stages that it reads. It writes into a folder named by that fingerprint, so that only the same
work is ever resumed; when every part is there and the ledger adds up, one small file makes the
folder the stage's current output. That is all a commit is, on a disk and in an object store.
"""

import ast
import hashlib
import importlib.util
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import (
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
)

from configs.reading import ConfigError
from pipelines.engines.jobs import cancel_abandoned
from pipelines.engines.local import DIED
from pipelines.stage import MICROSECONDS, Place, Stage
from shards import ledger
from shards.storage import Location, in_parallel, names, remove_tree, stamp

ATTEMPTS = 4  # of a job whose worker died, as many as Spark makes of a task

log = logging.getLogger("mixwright")

# Of the pieces of a fingerprint: that of the output whose temporary failures were tried again.
RETRIED = "retried"

FOLLOWED = ("filters", "mixers", "shards")
FOLLOWED_IN = tuple(f"{package}." for package in FOLLOWED)

Metrics = Mapping[str, int]  # a stage's Beam counters by name
Watch = Callable[[Mapping[str, Place]], AbstractContextManager[None]]
Done = Callable[[str, ledger.Counts, Metrics], None]
Graph = Callable[[beam.Pipeline], Any]


@dataclass(frozen=True)
class Planned:
    """A stage with what the run's folder says about it."""

    stage: Stage
    fingerprint: str
    pieces: Mapping[str, Any]  # what the fingerprint is made of
    done: bool
    why: str  # "done", "new", "its config changed", ...
    # The folder of an earlier output, whose downloads are taken over.
    earlier: str | None = None
    retries: bool = False  # only its temporary failures are tried again

    @property
    def folder(self) -> str:
        """The name of the folder that the stage writes into."""
        return self.fingerprint[:16]


def _code_digest(modules: Iterable[str]) -> str:
    """A hash of the modules' code and of the rules and data model that they import.

    Imports of other pipelines are not followed: a stage names those that it depends on.
    """
    state, waiting, seen = hashlib.sha256(), sorted(modules), set[str]()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += _imports(name)
    for name in sorted(seen):
        state.update(name.encode() + _source(name))
    return state.hexdigest()


@cache
def _source(module: str) -> bytes:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    return Path(spec.origin).read_bytes()


@cache
def _imports(module: str) -> list[str]:
    """The modules of `filters`, `mixers` and `shards` that a module imports."""
    found = []
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.ImportFrom) and node.module in FOLLOWED:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(FOLLOWED_IN):
            found.append(str(node.module))
    return found


def _pieces(stage: Stage, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a fingerprint is made of, by the name under which a change is reported."""
    return {
        "config": json.loads(json.dumps(stage.config, sort_keys=True, default=str)),
        "code": _code_digest({"pipelines.stage", *stage.modules}),
        "files": [len(stage.files), _hash({"stamps": in_parallel(stamp, stage.files)})],
        "inputs": {name: inputs[name] for name in (*stage.inputs, *stage.lookups)},
    }


def _hash(pieces: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pieces, sort_keys=True).encode()).hexdigest()


def _changed(said: Mapping[str, Any], pieces: Mapping[str, Any]) -> list[str]:
    """What a stage depends on that is not what it was when it last ran."""
    before = said["pieces"]
    return [name for name in pieces if before.get(name) != pieces[name]]


def _planned(
    stage: Stage, fingerprint: str, pieces: Mapping[str, Any], said: Mapping[str, Any] | None
) -> Planned:
    """A stage and why it has to run; `said` is what it said of itself when it last ran."""
    if said is None:
        return Planned(stage, fingerprint, pieces, done=False, why="new")
    changed = _changed(said, pieces)
    if not changed:
        return Planned(stage, fingerprint, pieces, done=True, why="done")
    why, earlier = f"its {' and '.join(changed)} changed", None
    if stage.temporary and changed == ["inputs"]:
        why, earlier = f"{why}; what it has downloaded is kept", said["folder"]
    return Planned(stage, fingerprint, pieces, done=False, why=why, earlier=earlier)


def plan(run: Location, stages: Sequence[Stage]) -> list[Planned]:
    """Which stages are done and which have to run, in the order of `stages`."""
    prints: dict[str, str] = {}
    planned = []
    before = in_parallel(lambda stage: ledger.about(run / stage.name), stages)
    for stage, said in zip(stages, before, strict=True):
        pieces = _pieces(stage, prints)
        pieces |= _retried(said, pieces)
        prints[stage.name] = _hash(pieces)
        planned.append(_planned(stage, prints[stage.name], pieces, said))
    return planned


def _retried(said: Mapping[str, Any] | None, pieces: Mapping[str, Any]) -> dict[str, Any]:
    """That failures were tried again is part of an output as long as nothing else changes."""
    if said is None or RETRIED not in said["pieces"] or _changed(said, pieces):
        return {}
    return {RETRIED: said["pieces"][RETRIED]}


def plan_retry(run: Location, planned: Sequence[Planned]) -> list[Planned]:
    """The finished stages of a plan, of which those with temporary failures try these again.

    Stages that read them are not run: whether they have to be is seen when it is known what was
    won. An empty list if there is nothing to try.
    """
    again = [_again(run, p) if p.stage.temporary else p for p in planned if p.done]
    return again if any(p.retries for p in again) else []


def _again(run: Location, p: Planned) -> Planned:
    counts = ledger.read_counts(run / p.stage.name / p.folder)
    failed = counts.lost_to("image", p.stage.temporary)
    if not failed:
        return p
    pieces = {**p.pieces, RETRIED: p.fingerprint}
    why = f"{failed} images failed for reasons that may have passed"
    return Planned(
        p.stage, _hash(pieces), pieces, done=False, why=why, earlier=p.folder, retries=True
    )


def _waves(planned: Sequence[Planned]) -> Iterable[list[Planned]]:
    """Stages to run, in groups that share one Beam job."""
    waiting = [p for p in planned if not p.done]
    while waiting:
        blocked = {p.stage.name for p in waiting}
        wave: list[Planned] = []
        for p in waiting:
            needed = blocked.intersection((*p.stage.inputs, *p.stage.lookups))
            waits = p.stage.parts or p.stage.before
            if not needed - {q.stage.name for q in wave} and not (needed and waits):
                wave.append(p)
        yield wave
        waiting = [p for p in waiting if p not in wave]


def _places(run: Location, planned: Sequence[Planned], wave: Sequence[Planned]) -> dict[str, Place]:
    """Where each stage of a wave reads and writes, by name."""
    folders = {p.stage.name: run / p.stage.name / p.folder for p in planned}
    places: dict[str, Place] = {}
    for p in wave:
        inputs = tuple(folders[name] for name in p.stage.inputs)
        lookups = tuple(folders[name] for name in p.stage.lookups)
        if p.stage.parts:
            parts = p.stage.parts(inputs or lookups)
        else:
            first = p.stage.inputs[0]
            parts = places[first].parts if first in places else ledger.part_count(inputs[0])
        out = folders[p.stage.name]
        earlier = out.with_name(p.earlier) if p.earlier else None
        places[p.stage.name] = Place(p.stage.name, run, out, inputs, lookups, parts, earlier)
    return places


def _jobs(wave: Sequence[Planned], places: Mapping[str, Place]) -> Iterator[Graph]:
    """The graphs of a wave's jobs, each made when those before it have run."""
    while graphs := _ahead(wave, places):
        yield partial(_build_ahead, graphs=graphs)
    yield partial(_build, wave=wave, places=places)


def _ahead(wave: Sequence[Planned], places: Mapping[str, Place]) -> dict[str, Graph]:
    """What has to run before the stages' own graphs, by stage."""
    asked = {p.stage.name: p.stage.before for p in wave if p.stage.before}
    found = {name: before(places[name]) for name, before in asked.items()}
    return {name: graph for name, graph in found.items() if graph}


def _build_ahead(pipeline: beam.Pipeline, graphs: Mapping[str, Graph]) -> None:
    for name, graph in graphs.items():
        _ = pipeline | name >> _apply(graph)


@beam.ptransform_fn  # type: ignore[untyped-decorator]
def _apply(start: Any, graph: Graph) -> Any:
    """A graph as one named transform, beside those of other stages."""
    return graph(start)


def _build(pipeline: beam.Pipeline, wave: Sequence[Planned], places: Mapping[str, Place]) -> None:
    """The graph of a wave: each stage goes on from the parts that its input hands over."""
    written: dict[str, Any] = {}
    for p in wave:
        name, place = p.stage.name, places[p.stage.name]
        parts = None if p.stage.parts else written.get(p.stage.inputs[0])
        if parts is None:
            start = pipeline | f"{name}/parts" >> beam.Create(range(place.parts), reshuffle=False)
            parts = start | f"{name}/spread" >> beam.Reshuffle()
        written[name] = parts | name >> _graph(p.stage, place)


@beam.ptransform_fn  # type: ignore[untyped-decorator]
def _graph(parts: Any, stage: Stage, place: Place) -> Any:
    """The stage as one named transform, so that the stages of a wave share a pipeline."""
    return stage.build(parts, place)


def _check(place: Place) -> ledger.Counts:
    """All parts are there and the stage adds up."""
    written = ledger.parts_done(place.out)
    missing = [part for part in map(ledger.part_name, range(place.parts)) if part not in written]
    if missing:
        raise ledger.LedgerError(f"{place.stage}: {', '.join(missing[:5])} were not written")
    counts = ledger.sum_counts(place.out, place.parts)
    counts.check(place.stage)
    return counts


def _check_inputs(stage: Stage, counts: ledger.Counts, kept: Mapping[str, int]) -> None:
    """A stage has read what the stages before it kept."""
    given = sum(kept[name] for name in stage.inputs)
    if stage.inputs and given != counts.read.get("document"):
        raise ledger.LedgerError(
            f"{stage.name}: its inputs kept {given} documents, "
            f"but it read {counts.read.get('document')}"
        )


def _commit(
    planned: Planned,
    place: Place,
    counts: ledger.Counts,
    metrics: Metrics,
) -> None:
    """Make what a checked stage has written its current output, and remove any other."""
    stage, home = planned.stage, place.out.parent
    if stage.finish:
        stage.finish(place)
    about = {
        "stage": stage.name,
        "folder": planned.folder,
        "fingerprint": planned.fingerprint,
        "pieces": planned.pieces,
        "parts": place.parts,
        "holds": [name for name in names(place.out) if "." not in name],
        "counts": asdict(counts),
        "seconds": metrics.get(MICROSECONDS, 0) / 1e6,
        "metrics": dict(metrics),
    }
    ledger.commit(home, about)
    for name in names(home):
        if name not in (planned.folder, ledger.STAGE_FILE):
            remove_tree(home / name)


def _changes(planned: Planned, place: Place, counts: ledger.Counts) -> bool:
    """Whether an output is worth to be committed: not if all that was tried again failed again."""
    retried = place.earlier if planned.retries else None
    return retried is None or ledger.read_counts(retried) != counts


def _metrics(results: Iterable[Any]) -> dict[str, dict[str, int]]:
    """Every stage's counters summed, and the largest of its distributions, over all jobs.

    Not every engine has a value for every metric: Prism lists some without one.
    """
    found: dict[str, dict[str, int]] = {}
    for metrics in (result.metrics().query(MetricsFilter()) for result in results):
        for each in metrics["counters"]:
            stage, name = found.setdefault(each.key.metric.namespace, {}), each.key.metric.name
            stage[name] = stage.get(name, 0) + int(each.result or 0)
        for each in metrics["distributions"]:
            stage, name = found.setdefault(each.key.metric.namespace, {}), each.key.metric.name
            stage[name] = max(stage.get(name, 0), int(each.result.max if each.result else 0))
    return found


def next_job(
    run: Location, planned: Sequence[Planned], options: PipelineOptions
) -> tuple[list[str], beam.Pipeline]:
    """The pipeline that `execute` would run first, and the names of its stages.

    Those after it are built when it is done, since their parts follow from its counts.
    """
    wave = next(iter(_waves(planned)), [])
    pipeline = _pipeline(options)
    next(_jobs(wave, _places(run, planned, wave)))(pipeline)
    return [p.stage.name for p in wave], pipeline


def _pipeline(options: PipelineOptions) -> beam.Pipeline:
    """An empty pipeline; raises `ConfigError` for values that the engine's own checks refuse."""
    try:
        return beam.Pipeline(options=options)
    except ValueError as error:
        _, *causes = str(error).splitlines() or [""]
        raise ConfigError(f"runner: {' '.join(causes) or error}") from error


def _with_few_workers(options: PipelineOptions, places: Mapping[str, Place]) -> PipelineOptions:
    """Options for a wave: of one part, the local engine's work is done in this process.

    A worker process would do it no faster, and takes seconds to start.
    """
    processes = options.view_as(DirectOptions).direct_running_mode == "multi_processing"
    if not processes or any(place.parts > 1 for place in places.values()):
        return options
    here = {"direct_running_mode": "in_memory", "direct_num_workers": 1}
    return PipelineOptions.from_dictionary(options.get_all_options(drop_default=True) | here)


def _run_job(graph: Graph, options: PipelineOptions) -> Any:
    """Run a graph to its end, again if a local worker died: what it had written is kept."""
    for _ in range(ATTEMPTS - 1):
        try:
            return _attempt(graph, options)
        except RuntimeError as error:
            if DIED not in str(error):
                raise
            log.warning(DIED)
    return _attempt(graph, options)


def _attempt(graph: Graph, options: PipelineOptions) -> Any:
    """Run a graph to its end; a job that is left to itself, as on Ctrl-C, is cancelled."""
    server = options.view_as(PortableOptions).job_endpoint
    if server and ":" in server:
        cancel_abandoned(server, options.view_as(GoogleCloudOptions).job_name)
    pipeline = _pipeline(options)
    graph(pipeline)
    result = pipeline.run()
    try:
        result.wait_until_finish()
    except BaseException:
        result.cancel()
        raise
    return result


def execute(
    run: Location,
    planned: Sequence[Planned],
    options: PipelineOptions,
    *,
    watch: Watch,
    done: Done,
) -> None:
    """Bring the stages of a plan up to date; `watch` shows progress while a wave of them runs."""
    kept = {
        p.stage.name: ledger.read_counts(run / p.stage.name / p.folder).kept.get("document", 0)
        for p in planned
        if p.done
    }
    for wave in _waves(planned):
        places = _places(run, planned, wave)
        chosen = _with_few_workers(options, places)
        with watch(places):
            results = [_run_job(graph, chosen) for graph in _jobs(wave, places)]
        metrics = _metrics(results)
        checked = {name: _check(place) for name, place in places.items()}
        for p in wave:
            name = p.stage.name
            kept[name] = checked[name].kept.get("document", 0)
            _check_inputs(p.stage, checked[name], kept)
        for p in wave:
            name = p.stage.name
            mine = metrics.get(name, {})
            if _changes(p, places[name], checked[name]):
                _commit(p, places[name], checked[name], mine)
            else:
                remove_tree(places[name].out)
            done(name, checked[name], mine)
