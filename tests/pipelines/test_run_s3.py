"""A whole run in an object store that misbehaves: the bytes of a run on a disk."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.config.recipe import Recipe, load_recipe
from pipelines.fetching.site import Site
from shards import ledger
from shards.storage import Remote, exists, names, read_bytes
from tests.pipelines.small import digests, run_quietly, small_recipe
from tests.servers.s3 import S3Server, serve

BUCKET = "crawl"
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
# What a run of twenty stages meets, and that each of its kinds of file meets something.
FAULTS = (
    {"kind": "error", "method": "GET", "keys": "run/*/documents/*", "count": 3},
    {"kind": "error", "method": "PUT", "keys": "run/*/counts/*", "count": 3},
    {"kind": "error", "method": "HEAD", "count": 2, "status": 500, "code": "InternalError"},
    {"kind": "error", "method": "GET", "query": "*list-type=2*", "count": 2},
    {"kind": "drop", "method": "GET", "keys": "run/*.tar", "count": 2, "after": 700},
    {"kind": "drop", "method": "PUT", "keys": "run/*/documents/*", "count": 2, "after": 100},
    {"kind": "truncate", "method": "GET", "keys": "input/*.warc.gz", "count": 2, "after": 900},
    {"kind": "truncate", "method": "GET", "keys": "run/*.parquet", "count": 3, "after": 50},
    {"kind": "lose", "method": "PUT", "keys": "run/*/stage.json", "count": 2},
)


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with serve() as running, pytest.MonkeyPatch.context() as patch:
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield running


@pytest.fixture(scope="module")
def remote_run(
    server: S3Server, small_input: Path, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> Recipe:
    """The small recipe, finished in a bucket from inputs in it."""
    server.client.create_bucket(Bucket=BUCKET)
    for file in small_input.rglob("*.*"):
        key = f"input/{file.relative_to(small_input).as_posix()}"
        server.client.upload_file(str(file), BUCKET, key)
    recipe = _remote_recipe(server, site, tmp_path_factory.mktemp("s3"))
    faults = [server.fault(**fault) for fault in FAULTS]
    run_quietly(recipe)
    assert [fault for fault in faults if fault.count] == [], "faults that nothing met"
    return recipe


def _remote_recipe(server: S3Server, site: Site, folder: Path) -> Recipe:
    path = small_recipe(folder / "r.yaml", f"s3://{BUCKET}/run", Path("input"), site)
    tree = yaml.safe_load(path.read_text())
    tree["storage"] = {"s3": {"endpoint": server.endpoint, "region": "us-east-1"}}
    for corpus in tree["corpora"].values():
        corpus["read"]["files"] = [f"s3://{BUCKET}/{name}" for name in corpus["read"]["files"]]
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)


def told(server: S3Server, *arguments: str) -> str:
    """What a command without a recipe prints, where the environment names the endpoint."""
    environment = {"AWS_ENDPOINT_URL": server.endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        env=os.environ | CREDENTIALS | environment,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_shards_are_those_of_a_disk(remote_run: Recipe, small_run: Recipe) -> None:
    assert digests(remote_run) == digests(small_run)


def test_the_ledger_is_that_of_a_disk(remote_run: Recipe, small_run: Recipe) -> None:
    there, here = (list(ledger.stage_folders(run.out)) for run in (remote_run, small_run))
    assert [name for name, _ in there] == [name for name, _ in here]
    for (name, remote), (_, local) in zip(there, here, strict=True):
        assert ledger.read_counts(remote) == ledger.read_counts(local), name
        assert ledger.read_drops(remote) == ledger.read_drops(local), name


def test_nothing_is_left_of_other_attempts(remote_run: Recipe) -> None:
    for name, folder in ledger.stage_folders(remote_run.out):
        assert names(folder.parent) == [folder.name, ledger.STAGE_FILE], name


def test_a_second_run_does_nothing(remote_run: Recipe) -> None:
    assert run_quietly(remote_run) == []


def test_status(server: S3Server, remote_run: Recipe) -> None:
    _, *lines = told(server, "status", str(remote_run.out)).splitlines()
    assert [line.split()[0] for line in lines] == [
        n for n, _ in ledger.stage_folders(remote_run.out)
    ]
    assert {line.split()[1] for line in lines} == {"done,"}


@pytest.mark.parametrize("what", ["", "/shards"])
def test_inspect(server: S3Server, remote_run: Recipe, small_run: Recipe, what: str) -> None:
    there = told(server, "inspect", f"{remote_run.out}{what}")
    here = told(server, "inspect", f"{small_run.out}{what}")
    assert there == here.replace(str(small_run.out), str(remote_run.out))


def test_verify(server: S3Server, remote_run: Recipe) -> None:
    shards = f"{remote_run.out}/shards"
    count = ledger.read_counts(ledger.current(remote_run.out / "shards")).kept["sequence"]
    assert told(server, "verify", shards) == f"{shards}: {count} sequences verified\n"


def test_why(server: S3Server, remote_run: Recipe, small_run: Recipe, small_input: Path) -> None:
    folder = dict(ledger.stage_folders(small_run.out))["captions/filter"]
    dropped = ledger.read_drops(folder)["id"][0].as_py()
    there = told(server, "why", str(remote_run.out), dropped)
    here = told(server, "why", str(small_run.out), dropped)
    assert there == here.replace(str(small_input), f"s3://{BUCKET}/input")
    assert "captions/filter" in there


def test_report(server: S3Server, remote_run: Recipe) -> None:
    place = told(server, "report", str(remote_run.out)).strip()
    assert place.startswith(f"s3://{BUCKET}/run/")
    page = remote_run.out / place.removeprefix(f"{remote_run.out}/")
    assert isinstance(page, Remote) and exists(page)
    assert b"data:image/" in read_bytes(page)
