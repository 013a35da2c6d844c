"""Runs stages: skips what is done, finishes what was interrupted, commits what is complete.

A stage's fingerprint hashes its config, its code, its input files and the fingerprints of the
stages that it reads. Its folder is written beside its final place, gets a manifest when every
part is there and the ledger adds up, and is then renamed, so that a folder with a manifest is
always whole.
"""

import hashlib
import importlib.util
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.stage import Place, Stage
from shards import ledger
from shards.ledger import STAGE_FILE
from shards.storage import read_json, write_json

Watch = Callable[[Mapping[str, tuple[Path, int]]], Any]


@dataclass(frozen=True)
class Planned:
    """A stage with what the run's folder says about it."""

    stage: Stage
    fingerprint: str
    done: bool
    why: str  # "done", "new", "its config changed", ...


def _code_digest(modules: Iterable[str]) -> str:
    state = hashlib.sha256()
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError(name)
        state.update(name.encode() + Path(spec.origin).read_bytes())
    return state.hexdigest()


def _file_stamp(path: str) -> list[str | int]:
    """Size and time of a file from outside: hashing terabytes of WARCs would cost too much."""
    status = Path(path).stat()
    return [path, status.st_size, status.st_mtime_ns]


def _pieces(stage: Stage, inputs: Mapping[str, str]) -> dict[str, Any]:
    """What a fingerprint is made of, by the name under which a change is reported."""
    return {
        "config": json.loads(json.dumps(stage.config, sort_keys=True, default=str)),
        "code": _code_digest({"pipelines.stage", "shards.schema", "shards.ledger", *stage.modules}),
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
    """Stages to run, in groups whose inputs are all done: a group is one Beam pipeline."""
    waiting = [p for p in planned if not p.done]
    while waiting:
        names = {p.stage.name for p in waiting}
        ready = [p for p in waiting if not names.intersection((*p.stage.inputs, *p.stage.lookups))]
        yield ready
        waiting = [p for p in waiting if p not in ready]


def _partial(run: Path, planned: Planned) -> Path:
    """Where a stage is written; named by fingerprint, so that only the same work is resumed."""
    folder = _folder(run, planned.stage.name)
    return folder.with_name(f".{folder.name}.{planned.fingerprint[:16]}")


def _place(run: Path, planned: Planned) -> Place:
    inputs = tuple(_folder(run, name) for name in planned.stage.inputs)
    lookups = tuple(_folder(run, name) for name in planned.stage.lookups)
    parts = planned.stage.parts(inputs or lookups)
    return Place(run, _partial(run, planned), inputs, lookups, parts)


def _sweep(run: Path, planned: Planned) -> None:
    """Remove what interrupted runs of other configs left beside this stage."""
    folder = _folder(run, planned.stage.name)
    for path in folder.parent.glob(f".{folder.name}.*"):
        if path != _partial(run, planned):
            shutil.rmtree(path)


def _check(place: Place, name: str) -> ledger.Counts:
    """All parts are there and the stage adds up, by itself and against what it read."""
    missing = [i for i in range(place.parts) if not ledger.part_is_done(place.out, i)]
    if missing:
        raise ledger.LedgerError(f"{name}: parts {missing[:5]} were not written")
    counts = ledger.read_counts(place.out)
    counts.check(name)
    if place.inputs and counts.read.get("document") is not None:
        given = sum(ledger.read_counts(i).kept.get("document", 0) for i in place.inputs)
        if given != counts.read["document"]:
            raise ledger.LedgerError(
                f"{name}: its inputs kept {given} documents, but it read {counts.read['document']}"
            )
    return counts


def _commit(run: Path, planned: Planned, place: Place, order: int, seconds: float) -> ledger.Counts:
    """Check a written stage, give it its manifest and move it to its place."""
    stage, final = planned.stage, _folder(run, planned.stage.name)
    counts = _check(place, stage.name)
    needed = (*stage.inputs, *stage.lookups)
    inputs = {n: read_json(_folder(run, n) / STAGE_FILE)["fingerprint"] for n in needed}
    if stage.finish:
        stage.finish(place)
    manifest = {
        "stage": stage.name,
        "order": order,
        "fingerprint": planned.fingerprint,
        "pieces": _pieces(stage, inputs),
        "parts": place.parts,
        "counts": asdict(counts),
    }
    write_json(place.out / STAGE_FILE, manifest)
    write_json(place.out / "seconds.json", {"seconds": round(seconds, 3)})
    if final.exists():
        shutil.rmtree(final)
    place.out.rename(final)
    return counts


@beam.ptransform_fn  # type: ignore[untyped-decorator]
def _graph(begin: Any, stage: Stage, place: Place) -> Any:
    """The stage as one named transform, so that the stages of a wave share a pipeline."""
    return stage.build(begin, place)


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
        places = {p.stage.name: _place(run, p) for p in wave}
        for p in wave:
            _sweep(run, p)
            places[p.stage.name].out.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        shown = {name: (place.out, place.parts) for name, place in places.items()}
        with watch(shown), beam.Pipeline(options=options) as pipeline:
            for p in wave:
                _ = pipeline | p.stage.name >> _graph(p.stage, places[p.stage.name])
        for p in wave:
            seconds = time.monotonic() - started
            name = p.stage.name
            done(name, _commit(run, p, places[name], order[name], seconds), seconds)
