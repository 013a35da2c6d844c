"""A small real run that many tests look at: pages and pictures of the sample over loopback HTTP.

Beam takes seconds to import, so the fixtures import what they need.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from _pytest.nodeid import NodeId
from hypothesis import settings

if TYPE_CHECKING:
    from pipelines.config.recipe import Recipe
    from pipelines.fetching.site import Site

# However slow the machine: a time is no result.
settings.register_profile("untimed", settings(), deadline=None)
settings.load_profile("untimed")

# What many tests share, each made once and all of them on one process.
SHARED = {"small_run", "remote_run", "spark", "flink"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file on one process, and so those that share a run or a cluster.

    These go first, since together they take longest. `--dist loadgroup` goes by the end of an id:
    the mark `xdist_group`, which should put the group there, has no effect with pytest 9.2 and
    pytest-xdist 3.8 (its issue 1386).
    """
    if not items or not hasattr(items[0].config, "workerinput"):
        return
    items.sort(key=lambda item: _group(item) != "shared")
    for item in items:
        item._id = NodeId.parse(f"{item.nodeid}@{_group(item)}")


def _group(item: pytest.Item) -> str:
    shared = SHARED.intersection(getattr(item, "fixturenames", ()))
    return "shared" if shared else item.nodeid.partition("::")[0]


@pytest.fixture(scope="session")
def site() -> Iterator["Site"]:
    from pipelines.fetching.site import serve
    from tests.pipelines.small import SAMPLE

    with serve(SAMPLE) as running:
        yield running


@pytest.fixture(scope="session")
def small_input(site: "Site", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every tenth caption and every eighth page of the sample, crawled into two WARCs a corpus."""
    from pipelines.fetching.crawl import crawl
    from tests.pipelines.small import SAMPLE

    folder = tmp_path_factory.mktemp("input")
    captions = pq.read_table(SAMPLE / "captions.parquet")
    pq.write_table(
        captions.take(list(range(0, captions.num_rows, 10))), folder / "captions.parquet"
    )
    with (SAMPLE / "pages.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    for kind in ("interleaved", "text"):
        urls = [row["url"] for row in rows if row["kind"] == kind][::8]
        crawl(urls, {"*.mixwright.example": site.address}, folder / kind, 2)
    return folder


@pytest.fixture(scope="session")
def small_run(
    site: "Site", small_input: Path, tmp_path_factory: pytest.TempPathFactory
) -> "Recipe":
    """The recipe of a finished run; tests must not change its folder."""
    from pipelines.config.recipe import load_recipe
    from tests.pipelines.small import run_quietly, small_recipe

    folder = tmp_path_factory.mktemp("small")
    recipe = load_recipe(small_recipe(folder / "r.yaml", folder / "run", small_input, site))
    run_quietly(recipe)
    return recipe
