"""Every engine's options from YAML, as Beam's own parsers read them."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from apache_beam.options.pipeline_options import (
    DebugOptions,
    DirectOptions,
    GoogleCloudOptions,
    PipelineOptions,
    PortableOptions,
    StandardOptions,
    WorkerOptions,
)

from configs.reading import ConfigError
from pipelines.config.recipe import Recipe, load_recipe
from pipelines.engines.runners import KEEP_WORKERS_MS, check_reach, pipeline_options


def recipe(tmp_path: Path, runner: dict[str, Any], name: str = "x") -> Recipe:
    tree = {
        "name": name,
        "out": str(tmp_path / "run"),
        "corpora": {"captions": {"read": {"files": ["a.parquet"]}}},
        "mix": {"weights": {"captions": 1}},
        "runner": runner,
    }
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(tree))
    return load_recipe(path)


def options(tmp_path: Path, runner: dict[str, Any], name: str = "x") -> PipelineOptions:
    return pipeline_options(recipe(tmp_path, runner, name))


def chosen(options: PipelineOptions) -> str:
    return str(options.view_as(StandardOptions).runner)


def test_local_runs_one_process_a_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.cpu_count", lambda: 6)
    found = options(tmp_path, {})
    direct = found.view_as(DirectOptions)
    assert chosen(found) == "FnApiRunner"
    assert (direct.direct_running_mode, direct.direct_num_workers) == ("multi_processing", 6)
    assert options(tmp_path, {"workers": 2}).view_as(DirectOptions).direct_num_workers == 2


@pytest.mark.parametrize("engine", ["spark", "flink"])
def test_a_cluster_by_its_job_server(tmp_path: Path, engine: str):
    cluster = {"job_endpoint": "h:8099", "environment": "loopback"}
    found = options(tmp_path, {"engine": engine, engine: cluster})
    portable = found.view_as(PortableOptions)
    assert chosen(found) == "PortableRunner"
    assert portable.job_endpoint == "h:8099"
    assert portable.environment_type == "LOOPBACK"
    kept = {"spark": str(KEEP_WORKERS_MS), "flink": 0}
    assert portable.environment_cache_millis == kept[engine]


@pytest.mark.parametrize(
    ("engine", "runner", "key"),
    [
        ("spark", "SparkRunner", "spark_master_url"),
        ("flink", "FlinkRunner", "flink_master"),
    ],
)
def test_a_cluster_by_its_master(tmp_path: Path, engine: str, runner: str, key: str):
    cluster = {"master": "h:7077", "environment": "external", "pool": "localhost:50001"}
    found = options(tmp_path, {"engine": engine, engine: cluster})
    portable = found.view_as(PortableOptions)
    assert chosen(found) == runner
    assert portable.job_endpoint is None
    assert found.get_all_options()[key] == "h:7077"
    assert (portable.environment_type, portable.environment_config) == (
        "EXTERNAL",
        "localhost:50001",
    )


def test_workers_in_containers_are_of_the_recipes_image(tmp_path: Path):
    cluster = {"job_endpoint": "h:8099", "image": "registry.example/mixwright:1"}
    portable = options(tmp_path, {"engine": "spark", "spark": cluster}).view_as(PortableOptions)
    assert portable.environment_type == "DOCKER"
    assert portable.environment_config == "registry.example/mixwright:1"


CLOUD = {
    "project": "our-project",
    "region": "europe-west4",
    "temp": "gs://ours/temp",
    "image": "registry.example/mixwright:1",
}


def test_dataflow_says_on_what_it_runs(tmp_path: Path):
    machines = {
        "machine_type": "n2-standard-8",
        "disk_gb": 50,
        "workers": 3,
        "max_workers": 9,
        "service_account": "w@our-project.example",
        "network": "net",
        "subnetwork": "regions/europe-west4/subnetworks/net",
        "public_ips": False,
        "accelerator": "type:nvidia-tesla-t4;count:1;install-nvidia-driver",
    }
    found = options(tmp_path, {"engine": "dataflow", "dataflow": CLOUD | machines}, "My.Run_1")
    cloud, worker = found.view_as(GoogleCloudOptions), found.view_as(WorkerOptions)
    assert chosen(found) == "DataflowRunner"
    assert (cloud.project, cloud.region) == ("our-project", "europe-west4")
    assert cloud.temp_location == "gs://ours/temp"
    assert cloud.service_account_email == "w@our-project.example"
    assert cloud.dataflow_service_options == [
        "worker_accelerator=type:nvidia-tesla-t4;count:1;install-nvidia-driver"
    ]
    assert worker.sdk_container_image == "registry.example/mixwright:1"
    assert (worker.machine_type, worker.disk_size_gb) == ("n2-standard-8", 50)
    assert (worker.num_workers, worker.max_num_workers) == (3, 9)
    assert (worker.network, worker.subnetwork) == ("net", machines["subnetwork"])
    assert worker.use_public_ips is False


def test_jobs_of_a_run_share_a_name_that_every_engine_takes(tmp_path: Path):
    (tmp_path / "other").mkdir()
    folders = (tmp_path, tmp_path, tmp_path / "other")
    found = [options(folder, {}, "My.Run_1").view_as(GoogleCloudOptions) for folder in folders]
    names = [each.job_name for each in found]
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch("mixwright-my-run-1-[a-z0-9]{8}", name) for name in names)


def test_what_a_recipe_does_not_say_is_left_to_dataflow(tmp_path: Path):
    found = options(tmp_path, {"engine": "dataflow", "dataflow": CLOUD})
    worker = found.view_as(WorkerOptions)
    assert (worker.machine_type, worker.num_workers, worker.use_public_ips) == (None, None, None)
    assert found.view_as(GoogleCloudOptions).dataflow_service_options is None


@pytest.mark.parametrize(
    "runner",
    [
        {},
        {"engine": "spark", "spark": {"job_endpoint": "h:8099", "environment": "loopback"}},
        {"engine": "flink", "flink": {"master": "h:8081", "environment": "external"}},
        {"engine": "dataflow", "dataflow": CLOUD},
    ],
    ids=["local", "spark", "flink", "dataflow"],
)
def test_any_other_option_of_beams_passes_through(tmp_path: Path, runner: dict[str, Any]):
    """A flag by true, none by false or null, several times by a list."""
    more = {
        "job_name": "mine",
        "save_main_session": True,
        "streaming": False,
        "profile_location": None,
        "profile_sample_rate": 0.5,
        "experiments": ["use_this", "and_that"],
    }
    found = options(tmp_path, runner | {"options": more})
    everything = found.get_all_options()
    assert everything["job_name"] == "mine"
    assert everything["save_main_session"] is True
    assert everything["streaming"] is False
    assert everything["profile_location"] is None
    assert everything["profile_sample_rate"] == 0.5
    assert {"use_this", "and_that"} <= set(found.view_as(DebugOptions).experiments)


def test_beams_own_names_go_over_what_the_engines_section_says(tmp_path: Path):
    found = options(tmp_path, {"options": {"direct_running_mode": "in_memory"}})
    assert found.view_as(DirectOptions).direct_running_mode == "in_memory"


@pytest.mark.parametrize(
    ("runner", "message"),
    [
        ({"engine": "spark"}, r"runner.spark: needs job_endpoint \(host:port .* or master"),
        ({"engine": "flink"}, r"runner.flink: needs job_endpoint"),
        (
            {"engine": "flink", "flink": {"master": "h:8081"}},
            r"runner.flink: environment docker needs image, .*; external or loopback need none",
        ),
        ({"engine": "dataflow"}, r"runner.dataflow: needs project, region, temp, image"),
        (
            {"engine": "dataflow", "dataflow": {**CLOUD, "temp": None}},
            r"runner.dataflow: needs temp$",
        ),
        ({"engine": "ray"}, r"runner.engine: .*'local', 'spark', 'flink' or 'dataflow'"),
        (
            {"engine": "spark", "spark": {"endpoint": "h:1"}},
            r"runner.spark.endpoint: unknown key; allowed: job_endpoint, master",
        ),
        (
            {"engine": "spark", "spark": {"environment": "process"}},
            r"runner.spark.environment: .*'docker', 'external' or 'loopback'",
        ),
        ({"options": {"experiments": {"a": 1}}}, r"runner.options.experiments"),
        (
            {"options": {"direct_num_workers": "many"}},
            r"runner.options: argument --direct_num_workers: invalid int value: 'many'$",
        ),
        ({"core_hour_price": -1}, r"runner.core_hour_price: .*greater than or equal to 0"),
    ],
)
def test_a_mistake_names_its_key_and_the_mend(tmp_path: Path, runner: dict[str, Any], message: str):
    with pytest.raises(ConfigError, match=message):
        options(tmp_path, runner)


def test_paths_that_dataflows_workers_do_not_see_are_refused(tmp_path: Path):
    local = recipe(tmp_path, {"engine": "dataflow", "dataflow": CLOUD})
    with pytest.raises(ConfigError, match="is a path of this machine, which Dataflow's workers"):
        check_reach(local)
    check_reach(recipe(tmp_path, {}))
