"""Finished stages of a run, laid out as the pipelines lay them out."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from shards import ledger, storage
from shards.storage import Location

FINGERPRINT = "f" * 64
SECONDS = 1.5


def folder_of(run: Location, name: str) -> Location:
    """Where the stage writes its output."""
    return run / name / FINGERPRINT[:16]


def finish(
    run: Location, name: str, *, inputs: Mapping[str, str] | None = None, config: Any = None
) -> None:
    """Commits what is in `folder_of` as the next stage of the run."""
    folder = folder_of(run, name)
    parts = len(ledger.parts_done(folder))
    about = {
        "stage": name,
        "fingerprint": FINGERPRINT,
        "folder": folder.name,
        "pieces": {"config": config, "code": "c" * 64, "inputs": dict(inputs or {})},
        "parts": parts,
        "holds": [kind for kind in storage.names(folder) if "." not in kind],
        "counts": asdict(ledger.sum_counts(folder, parts)),
        "seconds": SECONDS,
    }
    ledger.commit(run / name, about)
    file = run / ledger.RUN_FILE
    before = storage.read_json(file)["stages"] if storage.exists(file) else []
    storage.write_json(file, {"stages": [*before, name]})
