"""The metrics of a run: a file of JSON lines, also told to whoever watches."""

import json
from collections.abc import Callable
from typing import Any

from shards.storage import Location, read_bytes, write_atomic

Progress = Callable[[dict[str, Any]], None]


def metrics_writer(place: Location, step: int, progress: Progress | None) -> Progress:
    """A function that adds a line to the file at `place` and hands it to `progress`.

    Lines of updates after `step` are left out, because they will be done again. The file is
    written whole for every line: objects cannot be appended to.
    """
    lines = [line for line in _lines(place) if json.loads(line)["step"] <= step]

    def write(line: dict[str, Any]) -> None:
        lines.append(json.dumps(line).encode() + b"\n")
        write_atomic(place, b"".join(lines))
        if progress is not None:
            progress(line)

    return write


def _lines(place: Location) -> list[bytes]:
    try:
        return read_bytes(place).splitlines(keepends=True)
    except FileNotFoundError:
        return []


def due(step: int, every: int, steps: int) -> bool:
    """Whether something that is done every so many steps, and after the last, is due."""
    return step % every == 0 or step == steps
