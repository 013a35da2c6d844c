"""The stages of a run, as the report reads them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from shards import ledger, storage
from shards.storage import Location

MIX = "mix"  # what the stages that belong to no corpus are listed under

# The report samples: a run of any size gives a page of bounded size in bounded time.
PARTS_READ = 16  # parts of a stage, or shards, that samples and distributions are taken from

Table = dict[str, Any]  # what the template reads


@dataclass(frozen=True)
class Stage:
    """A finished stage as its folder tells of it."""

    name: str
    folder: Location
    about: Table

    @cached_property
    def counts(self) -> ledger.Counts:
        """Records read, kept and lost, summed over its parts."""
        return ledger.Counts(**self.about["counts"])

    @property
    def corpus(self) -> str:
        """The corpus that a stage named `corpus/step` works on."""
        return self.name.partition("/")[0] if "/" in self.name else MIX

    def tables(self, kind: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The first parts of its output."""
        files = ledger.part_files(self.folder, kind)[:PARTS_READ]
        yield from storage.in_parallel(lambda file: storage.read_table(file, columns), files)


def read_stages(run: Location) -> list[Stage]:
    """The finished stages of a run in the order in which records pass them."""
    folders = dict(ledger.stage_folders(run))
    said = storage.in_parallel(lambda f: ledger.about(f.parent), folders.values())
    stages = zip(folders.items(), said, strict=True)
    return [Stage(name, folder, about) for (name, folder), about in stages if about]


def in_order(stages: Sequence[Stage]) -> list[Stage]:
    """Corpus by corpus, and the mixture's after them."""
    return sorted(stages, key=lambda stage: (stage.corpus == MIX, stage.corpus))
