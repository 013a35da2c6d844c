"""Which code this process runs, to be compared between the submitter of a job and its workers."""

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

PACKAGES = ("configs", "filters", "mixers", "pipelines", "shards")


@cache
def code_version() -> str:
    """A hash of all modules of the pipelines."""
    state = hashlib.sha256()
    for package in PACKAGES:
        for name, module in sorted(_modules(package, files(package))):
            state.update(name.encode() + module.read_bytes())
    return state.hexdigest()[:16]


def _modules(name: str, folder: Traversable) -> list[tuple[str, Traversable]]:
    found = []
    for entry in folder.iterdir():
        path = f"{name}/{entry.name}"
        if entry.is_dir():
            found += _modules(path, entry)
        elif entry.name.endswith(".py"):
            found.append((path, entry))
    return found
