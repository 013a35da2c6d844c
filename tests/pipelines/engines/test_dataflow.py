"""A Dataflow job that is built, staged on a loopback server and written, but not submitted."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
import yaml
from apache_beam.options.pipeline_options import PipelineOptions
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.engines.dataflow import load_steps, read_pipeline, shuffles, write_job
from shards.storage import read_json
from tests.pipelines.small import CONFIGS, SAMPLE
from tests.servers.gcs import Gcs, Request, serve

IMAGE = "registry.example/mixwright:1"
OPTIONS = {
    "runner": "DataflowRunner",
    "project": "our-project",
    "region": "europe-west4",
    "job_name": "small",
    "temp_location": "gs://staging/temp",
    "staging_location": "gs://staging/stage",
    "no_auth": True,
    "save_main_session": False,
    "sdk_container_image": IMAGE,
    "sdk_location": "container",
    "machine_type": "n2-standard-8",
    "disk_size_gb": 50,
    "num_workers": 3,
    "max_num_workers": 9,
    # The second one spares a `pip freeze`, which Beam would stage beside the pipeline.
    "experiments": ["shuffle_mode=service", "disable_logging_submission_environment"],
    "dry_run": True,
}


def by_parity(number: int) -> tuple[int, str]:
    return number % 2, str(number)


def times(factor: int, group: tuple[int, Any]) -> int:
    return factor * sum(int(text) for text in group[1])


def small_pipeline(**options: Any) -> beam.Pipeline:
    pipeline = beam.Pipeline(options=PipelineOptions(**OPTIONS | options))
    numbers = pipeline | beam.Create(range(10), reshuffle=False) | "spread" >> beam.Reshuffle()
    groups = numbers | "by parity" >> beam.Map(by_parity) | "group" >> beam.GroupByKey()
    _ = groups | "times" >> beam.Map(partial(times, 3))
    return pipeline


@pytest.fixture(scope="module")
def staging() -> Iterator[Gcs]:
    with serve("staging") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STORAGE_EMULATOR_HOST", server.url)
        yield server


@pytest.fixture(scope="module")
def written(staging: Gcs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_job(small_pipeline(), folder)
    return folder


def test_the_job_says_on_what_it_will_run(written: Path) -> None:
    job = read_json(written / "job.json")
    assert (job["name"], job["type"]) == ("small", "JOB_TYPE_BATCH")
    (pool,) = job["environment"]["workerPools"]
    assert pool["machineType"] == "n2-standard-8"
    assert pool["diskSizeGb"] == 50
    assert pool["numWorkers"] == 3
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 9
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert "shuffle_mode=service" in job["environment"]["experiments"]
    assert "use_runner_v2" in job["environment"]["experiments"]


def test_the_pipeline_is_staged_as_it_was_written(written: Path, staging: Gcs) -> None:
    job = read_json(written / "job.json")
    options = job["environment"]["sdkPipelineOptions"]["options"]
    key = options["pipelineUrl"].removeprefix("gs://staging/")
    staged = type(read_pipeline(written)).FromString(staging.data("staging")[key])
    assert staged == read_pipeline(written)
    assert key.startswith("stage/small.")


def test_what_crosses_a_shuffle(written: Path) -> None:
    assert shuffles(read_pipeline(written)) == [
        ("spread", "VarIntCoder"),
        ("group", "TupleCoder[VarIntCoder, StrUtf8Coder]"),
    ]


def test_a_pickled_coder_has_the_name_of_its_class(staging: Gcs, tmp_path: Path) -> None:
    pipeline = small_pipeline()
    numbers = pipeline | "more" >> beam.Create([1.5, 2.5], reshuffle=False)
    anything = numbers | "to anything" >> beam.Map(lambda number: {number})
    _ = anything | "shuffle anything" >> beam.Reshuffle()
    write_job(pipeline, tmp_path)
    assert dict(shuffles(read_pipeline(tmp_path)))["shuffle anything"] == "FastPrimitivesCoder"


def test_every_step_unpickles(written: Path) -> None:
    assert {"spread", "by parity", "group", "times"} <= set(load_steps(read_pipeline(written)))


LOAD = """
import sys; from pathlib import Path
from pipelines.engines.dataflow import load_steps, read_pipeline
print(*load_steps(read_pipeline(Path(sys.argv[1]))), sep="\\n")
"""


def load_elsewhere(job: Path, folder: Path) -> "subprocess.CompletedProcess[str]":
    """Unpickle the steps in a new process that sees what is installed, and not the tests."""
    command = [sys.executable, "-I", "-c", LOAD, str(job)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_a_step_that_workers_cannot_import(written: Path, tmp_path: Path) -> None:
    """The small pipeline's functions are in the tests, which no worker has."""
    done = load_elsewhere(written, tmp_path)
    assert done.returncode == 1
    assert "ModuleNotFoundError: No module named 'tests" in done.stderr
    assert "in the step " in done.stderr.splitlines()[-1]


def test_another_runner_makes_no_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="FnApiRunner makes no Dataflow job"):
        write_job(small_pipeline(runner="FnApiRunner"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_submitted(
    staging: Gcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apache_beam.runners.dataflow.internal import apiclient

    calls: list[Any] = []
    client = apiclient.DataflowApplicationClient
    monkeypatch.setattr(client, "submit_job_description", lambda *call: calls.append(call))
    write_job(small_pipeline(), tmp_path)
    assert calls == []


def test_a_bucket_that_is_not_there(staging: Gcs, tmp_path: Path) -> None:
    pipeline = small_pipeline(staging_location="gs://other/stage")
    with pytest.raises(FileNotFoundError, match="gs://other: no such bucket"):
        write_job(pipeline, tmp_path)
    assert list(tmp_path.iterdir()) == []


# The job of a whole recipe


@dataclass(frozen=True)
class DryRun:
    """What `mixwright run --dry-run` said, left on the server, and asked of it."""

    said: str
    server: Gcs
    folder: Path  # of the two messages
    requests: list[Request]


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DryRun]:
    """The demo's recipe from bucket to bucket, without credentials and on loopback alone."""
    folder = tmp_path_factory.mktemp("dry-run")
    with serve("lake", "staging") as server:
        table = (SAMPLE / "captions.parquet").read_bytes()
        server.put("lake", "input/captions.parquet", table)
        for kind in ("interleaved", "text"):
            server.put("lake", f"input/{kind}/a.warc.gz", b"")
            server.put("lake", f"input/{kind}/b.warc.gz", b"")
        done = run_dry(recipe_in_buckets(folder / "demo.yaml"), folder, server)
        assert (done.returncode, done.stderr) == (0, "")
        requests = list(server.requests)
        for name in ("pipeline.json", "job.json"):
            (folder / name).write_bytes(server.data("lake")[f"runs/demo/job/{name}"])
        yield DryRun(done.stdout, server, folder, requests)


def recipe_in_buckets(path: Path) -> Path:
    tree = yaml.safe_load((CONFIGS / "demo.yaml").read_text())
    tree["out"] = "gs://lake/runs/demo"
    tree["storage"] = {"gcs": {"anonymous": True}}
    for corpus in tree["corpora"].values():
        patterns = corpus["read"]["files"]
        corpus["read"]["files"] = [p.replace("runs/demo/", "gs://lake/") for p in patterns]
    tree["runner"] = {
        "dataflow": {
            "project": "our-project",
            "region": "europe-west4",
            "temp": "gs://staging/temp",
            "image": IMAGE,
            "machine_type": "n2-highmem-8",
            "disk_gb": 100,
            "workers": 3,
            "max_workers": 40,
            "subnetwork": "regions/europe-west4/subnetworks/inner",
            "public_ips": False,
        },
        "options": {"no_auth": True},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


def run_dry(recipe: Path, home: Path, server: Gcs) -> "subprocess.CompletedProcess[str]":
    """Run the command where credentials are to be had from the server, and nothing elsewhere."""
    address = server.url.removeprefix("http://")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "STORAGE_EMULATOR_HOST": server.url,
        "GCE_METADATA_HOST": address,
        "GCE_METADATA_IP": address,
        "https_proxy": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "pipelines.cli", "run", str(recipe)]
    return subprocess.run(
        [*command, "--runner", "dataflow", "--dry-run"],
        cwd=CONFIGS.parent,
        env=environment,
        capture_output=True,
        text=True,
    )


def later(stages: list[str]) -> set[str]:
    """The stages that wait for jobs of their own: packing, and what follows rounds of a dedupe."""
    found = {"pack", "shards"}
    for corpus in ("interleaved", "text"):
        own = [stage for stage in stages if stage.startswith(f"{corpus}/")]
        found.update(own[own.index(f"{corpus}/dedupe") :])
    return found


def test_a_dry_run_says_what_it_wrote_where(dry_run: DryRun) -> None:
    *stages, _, found, files = dry_run.said.splitlines()
    assert [line.split()[0] for line in stages][-2:] == ["pack", "shards"]
    assert {line.split(maxsplit=1)[1] for line in stages} == {"run: new"}
    count = len(stages) - len(later([line.split()[0] for line in stages]))
    told = f"the next job (captions/read to text/filter, {count} stages)"
    assert found == f"{told} is in gs://lake/runs/demo/job:"
    assert files == "  pipeline.json, job.json; nothing was submitted"
    written = {key for key in dry_run.server.data("lake") if not key.startswith("input/")}
    assert written == {"runs/demo/job/pipeline.json", "runs/demo/job/job.json"}


def test_every_stage_of_the_job_is_a_step_by_its_name(dry_run: DryRun) -> None:
    stages = [line.split()[0] for line in dry_run.said.splitlines() if line.endswith("run: new")]
    steps = read_pipeline(dry_run.folder).components.transforms.values()
    assert set(stages) - {step.unique_name for step in steps} == later(stages)


def test_the_recipe_says_on_what_the_job_will_run(dry_run: DryRun) -> None:
    job = read_json(dry_run.folder / "job.json")
    (pool,) = job["environment"]["workerPools"]
    assert [image["containerImage"] for image in pool["sdkHarnessContainerImages"]] == [IMAGE]
    assert (pool["machineType"], pool["diskSizeGb"]) == ("n2-highmem-8", 100)
    assert (pool["numWorkers"], pool["autoscalingSettings"]["maxNumWorkers"]) == (3, 40)
    assert pool["subnetwork"] == "regions/europe-west4/subnetworks/inner"
    assert pool["ipConfiguration"] == "WORKER_IP_PRIVATE"
    assert job["environment"]["tempStoragePrefix"].startswith("storage.googleapis.com/staging/temp")


def test_numbers_and_tables_of_keys_are_all_that_crosses_a_shuffle(dry_run: DryRun) -> None:
    """A BytesCoder or a pickling one could carry a picture; a TableCoder refuses such columns."""
    found = dict(shuffles(read_pipeline(dry_run.folder)))
    spread = {name for name in found if name.endswith("/spread")}
    assert {found[name] for name in spread} == {"VarIntCoder"}
    keyed = found.keys() - spread
    assert {found[name] for name in keyed} == {"TupleCoder[VarIntCoder, TableCoder]"}
    assert {"captions/download/by host", "captions/dedupe/by key"} <= keyed


def test_every_step_of_the_recipe_unpickles_where_only_the_package_is(
    dry_run: DryRun, tmp_path: Path
) -> None:
    done = load_elsewhere(dry_run.folder, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    steps = read_pipeline(dry_run.folder).components.transforms.values()
    assert done.stdout.splitlines() == sorted(step.unique_name for step in steps)


def test_a_dry_run_asks_for_storage_alone(dry_run: DryRun) -> None:
    """Neither Dataflow nor the machine's metadata server, which hands out credentials."""
    kinds = {request.path.split("/")[1] for request in dry_run.requests}
    assert kinds == {"storage", "upload", "download"}
    assert not [r.path for r in dry_run.requests if "authorization" in r.headers]
    staged = [key.rpartition("/")[2] for key in dry_run.server.data("staging")]
    assert staged == ["pipeline.pb"]


def test_a_wrong_project_is_a_mistake_in_the_recipe(tmp_path: Path) -> None:
    recipe = recipe_in_buckets(tmp_path / "demo.yaml")
    wrong = ["storage={}", f"out={tmp_path}", "corpora.interleaved=null", "corpora.text=null"]
    wrong += ["mix.weights={captions: 1}", "runner.dataflow.project=Our project"]
    wrong += [f"corpora.captions.read.files=[{SAMPLE / 'captions.parquet'}]"]
    words = [word for assignment in wrong for word in ("--set", assignment)]
    command = ["run", str(recipe), "--runner", "dataflow", "--dry-run", *words]
    result = CliRunner().invoke(app, command, env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert result.stderr.startswith("error: runner: Invalid Project ID (Our project).")
