"""Runs stages: skips what is done, finishes what was interrupted, commits what is complete.

Stages chain into as few Beam jobs as they can: a stage whose parts follow from its input's runs
in the same job, and only one that has to count its inputs first (packing, shards) waits for them.

A stage's fingerprint hashes its config, its code, its input files and the fingerprints of the
stages that it reads. Its folder is written beside its final place, gets a manifest when every
part is there and the ledger adds up, and is then renamed, so that a folder with a manifest is
always whole.
"""

import ast
import hashlib
import importlib.util
import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.metrics import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.stage import MICROSECONDS, Place, Stage
from shards import ledger
from shards.ledger import STAGE_FILE
from shards.storage import read_json, write_json

FOLLOWED = ("filters", "mixers", "shards")
FOLLOWED_IN = tuple(f"{package}." for package in FOLLOWED)

Watch = Callable[[Mapping[str, tuple[Path, int]]], Any]


@dataclass(frozen=True)
class Planned:
    """A stage with what the run's folder says about it."""

    stage: Stage
    fingerprint: str
    done: bool
    why: str  # "done", "new", "its config changed", ...


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


def _file_stamp(path: str) -> list[str | int]:
    """Size and time of a file from outside: hashing terabytes of WARCs would cost too much."""
    status = Path(path).stat()
    return [path, status.st_size, status.st_mtime_ns]


def _pieces(stage: Stage, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a fingerprint is made of, by the name under which a change is reported."""
    return {
        "config": json.loads(json.dumps(stage.config, sort_keys=True, default=str)),
        "code": _code_digest({"pipelines.stage", *stage.modules}),
        "files": [_file_stamp(path) for path in stage.files],
        "inputs": {name: inputs[name] for name in (*stage.inputs, *stage.lookups)},
    }


def _hash(pieces: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(pieces, sort_keys=True).encode()).hexdigest()


def _folder(run: Path, name: str) -> Path:
    return run.joinpath(*name.split("/"))


def _why(folder: Path, pieces: Mapping[str, Any]) -> str:
    """Why a stage has to run, or "done"."""
    if not (folder / STAGE_FILE).exists():
        return "new"
    before = read_json(folder / STAGE_FILE)["pieces"]
    changed = [name for name in pieces if before.get(name) != pieces[name]]
    return f"its {' and '.join(changed)} changed" if changed else "done"


def plan(run: Path, stages: Sequence[Stage]) -> list[Planned]:
    """Which stages are done and which have to run, in the order of `stages`."""
    prints: dict[str, str] = {}
    planned = []
    for stage in stages:
        pieces = _pieces(stage, prints)
        prints[stage.name] = _hash(pieces)
        why = _why(_folder(run, stage.name), pieces)
        planned.append(Planned(stage, prints[stage.name], why == "done", why))
    return planned


def _waves(planned: Sequence[Planned]) -> Iterable[list[Planned]]:
    """Stages to run, in groups that share one Beam job."""
    waiting = [p for p in planned if not p.done]
    while waiting:
        blocked = {p.stage.name for p in waiting}
        wave: list[Planned] = []
        for p in waiting:
            needed = blocked.intersection((*p.stage.inputs, *p.stage.lookups))
            if not needed - {q.stage.name for q in wave} and not (needed and p.stage.parts):
                wave.append(p)
        yield wave
        waiting = [p for p in waiting if p not in wave]


def _partial(run: Path, planned: Planned) -> Path:
    """Where a stage is written; named by fingerprint, so that only the same work is resumed."""
    folder = _folder(run, planned.stage.name)
    return folder.with_name(f".{folder.name}.{planned.fingerprint[:16]}")


def _places(run: Path, wave: Sequence[Planned]) -> dict[str, Place]:
    """Where each stage of a wave reads and writes, by name."""
    places: dict[str, Place] = {}
    for p in wave:
        inputs, lookups = (
            tuple(places[n].out if n in places else _folder(run, n) for n in names)
            for names in (p.stage.inputs, p.stage.lookups)
        )
        if p.stage.parts:
            parts = p.stage.parts(inputs or lookups)
        else:
            first = p.stage.inputs[0]
            parts = places[first].parts if first in places else _parts_of(inputs[0])
        places[p.stage.name] = Place(p.stage.name, run, _partial(run, p), inputs, lookups, parts)
    return places


def _parts_of(folder: Path) -> int:
    return int(read_json(folder / STAGE_FILE)["parts"])


def _sweep(run: Path, planned: Planned) -> None:
    """Remove what interrupted runs of other configs left beside this stage."""
    folder = _folder(run, planned.stage.name)
    for path in folder.parent.glob(f".{folder.name}.*"):
        if path != _partial(run, planned):
            shutil.rmtree(path)


def _build(pipeline: beam.Pipeline, wave: Sequence[Planned], places: Mapping[str, Place]) -> None:
    """The graph of a wave: each stage goes on from the parts that its input hands over."""
    written: dict[str, Any] = {}
    for p in wave:
        name, place = p.stage.name, places[p.stage.name]
        parts = None if p.stage.parts else written.get(p.stage.inputs[0])
        if parts is None:
            start = pipeline | f"{name}/parts" >> beam.Create(range(place.parts))
            parts = start | f"{name}/spread" >> beam.Reshuffle()
        written[name] = parts | name >> _graph(p.stage, place)


@beam.ptransform_fn  # type: ignore[untyped-decorator]
def _graph(parts: Any, stage: Stage, place: Place) -> Any:
    """The stage as one named transform, so that the stages of a wave share a pipeline."""
    return stage.build(parts, place)


def _check(place: Place) -> ledger.Counts:
    """All parts are there and the stage adds up, by itself and against what it read."""
    missing = [i for i in range(place.parts) if not place.has(i)]
    if missing:
        raise ledger.LedgerError(f"{place.stage}: parts {missing[:5]} were not written")
    counts = ledger.read_counts(place.out)
    counts.check(place.stage)
    if place.inputs:
        given = sum(ledger.read_counts(i).kept.get("document", 0) for i in place.inputs)
        if given != counts.read.get("document"):
            raise ledger.LedgerError(
                f"{place.stage}: its inputs kept {given} documents, "
                f"but it read {counts.read.get('document')}"
            )
    return counts


def _commit(
    run: Path, planned: Planned, place: Place, counts: ledger.Counts, order: int, seconds: float
) -> None:
    """Give a written and checked stage its manifest and move it to its place."""
    stage, final = planned.stage, _folder(run, planned.stage.name)
    needed = (*stage.inputs, *stage.lookups)
    inputs = {n: read_json(_folder(run, n) / STAGE_FILE)["fingerprint"] for n in needed}
    if stage.finish:
        stage.finish(place)
    about = {
        "stage": stage.name,
        "order": order,
        "fingerprint": planned.fingerprint,
        "pieces": _pieces(stage, inputs),
        "parts": place.parts,
        "counts": asdict(counts),
    }
    write_json(place.out / STAGE_FILE, about)
    write_json(place.out / "seconds.json", {"seconds": round(seconds, 3)})
    if final.exists():
        shutil.rmtree(final)
    place.out.rename(final)


def _seconds(result: Any) -> dict[str, float]:
    """The time that each stage's own code took on all workers together, by Beam's metrics."""
    found = result.metrics().query(MetricsFilter().with_name(MICROSECONDS))["counters"]
    return {c.key.metric.namespace: c.result / 1e6 for c in found}


def execute(
    run: Path,
    stages: Sequence[Stage],
    options: PipelineOptions,
    *,
    watch: Watch,
    done: Callable[[str, ledger.Counts, float], None],
) -> None:
    """Bring every stage up to date; `watch` shows progress while a wave of stages runs."""
    planned = plan(run, stages)
    order = {p.stage.name: i for i, p in enumerate(planned)}
    for wave in _waves(planned):
        places = _places(run, wave)
        for p in wave:
            _sweep(run, p)
            places[p.stage.name].out.mkdir(parents=True, exist_ok=True)
        with watch({name: (place.out, place.parts) for name, place in places.items()}):
            pipeline = beam.Pipeline(options=options)
            _build(pipeline, wave, places)
            result = pipeline.run()
            result.wait_until_finish()
        seconds = _seconds(result)
        checked = {p.stage.name: _check(places[p.stage.name]) for p in wave}
        for p in wave:
            name, took = p.stage.name, seconds.get(p.stage.name, 0.0)
            _commit(run, p, places[name], checked[name], order[name], took)
            done(name, checked[name], took)
