"""Beam options for each engine."""

import io
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import redirect_stderr
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions

from configs.reading import ConfigError
from pipelines.config.recipe import Recipe
from pipelines.config.runner import Cluster, Dataflow, Runner
from pipelines.engines.forks import keep_freed_memory
from shards import schema

# How long a worker that has nothing to do is kept for the next stage: starting one takes as long
# as importing Beam and loading a model.
KEEP_WORKERS_MS = 600_000
# Beam would list all installed packages for every job, which takes pip seconds.
NO_PIP_FREEZE = {"experiments": ["disable_logging_submission_environment"]}


def pipeline_options(recipe: Recipe) -> PipelineOptions:
    """Beam's options for the recipe's engine; raises `ConfigError` for one that cannot run."""
    runner = recipe.runner
    engines = {
        "local": lambda: _local(runner),
        "spark": lambda: _cluster("spark", runner.spark),
        "flink": lambda: _cluster("flink", runner.flink),
        "dataflow": lambda: _dataflow(runner.dataflow),
    }
    named = engines[runner.engine]() | {
        "job_name": _job_name(recipe),
        "default_sdk_harness_log_level": "WARN",
    }
    return _read(list(_arguments(named | runner.options)))


def _read(arguments: list[str]) -> PipelineOptions:
    """All options, read at once: later, Beam would end the process at a wrong one."""
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            options = PipelineOptions(arguments)
            options.get_all_options()
    except SystemExit:
        cause = said.getvalue().strip().rpartition("error: ")[2]
        raise ConfigError(f"runner.options: {cause}") from None
    return options


def check_reach(recipe: Recipe) -> None:
    """Raise `ConfigError` for local paths that the workers of a cloud service cannot see."""
    local = [place for place in (str(recipe.out), *recipe.corpora.files) if "://" not in place]
    if recipe.runner.engine == "dataflow" and local:
        raise ConfigError(
            f"{local[0]} is a path of this machine, which Dataflow's workers do not see; "
            "out and read.files have to be in a bucket: gs://bucket/folder"
        )


def _job_name(recipe: Recipe) -> str:
    """The same for all jobs of a run, so that an abandoned one is found; Dataflow's alphabet."""
    name = re.sub("[^a-z0-9]+", "-", recipe.name.lower()).strip("-")
    return f"mixwright-{name}-{schema.digest(str(recipe.out))[:8]}"


def _arguments(options: Mapping[str, Any]) -> Iterable[str]:
    """As on Beam's command line: true is a flag, and false or null leaves an option out."""
    for name, value in options.items():
        if value is True:
            yield f"--{name}"
        elif value is not False and value is not None:
            values = value if isinstance(value, list) else [value]
            yield from (f"--{name}={each}" for each in values)


def _local(runner: Runner) -> dict[str, Any]:
    """Beam's in-process runner with one worker process a core.

    Of Beam's local modes only the multi-processing one uses every core for Python code
    (`benchmarks/engines.py`). The runner is named outright because a plain DirectRunner first
    looks for a Prism binary on the network.
    """
    return {
        "runner": "FnApiRunner",
        "direct_running_mode": "multi_processing",
        "direct_num_workers": runner.workers or os.cpu_count() or 1,
    }


def _cluster(engine: str, cluster: Cluster) -> dict[str, Any]:
    """A Spark or Flink cluster, by a job server that runs or one that Beam starts."""
    if cluster.job_endpoint:
        reached = {"runner": "PortableRunner", "job_endpoint": cluster.job_endpoint}
    elif cluster.master:
        key = {"spark": "spark_master_url", "flink": "flink_master"}[engine]
        reached = {"runner": f"{engine.capitalize()}Runner", key: cluster.master}
    else:
        raise ConfigError(
            f"runner.{engine}: needs job_endpoint (host:port of a Beam job server) or master "
            "(the cluster's address)"
        )
    # Flink hands a worker that died to every new attempt, so there none is kept.
    kept = {"environment_cache_millis": KEEP_WORKERS_MS} if engine == "spark" else {}
    return reached | _environment(engine, cluster) | kept | NO_PIP_FREEZE


def _environment(engine: str, cluster: Cluster) -> dict[str, Any]:
    if cluster.environment == "docker":
        if cluster.image is None:
            raise ConfigError(
                f"runner.{engine}: environment docker needs image, the worker image that the "
                "Dockerfile makes; external or loopback need none"
            )
        return {"environment_type": "DOCKER", "environment_config": cluster.image}
    if cluster.environment == "external":
        return {"environment_type": "EXTERNAL", "environment_config": cluster.pool}
    keep_freed_memory()
    return {"environment_type": "LOOPBACK"}


def _dataflow(dataflow: Dataflow) -> dict[str, Any]:
    """Google Cloud Dataflow."""
    missing = [k for k in ("project", "region", "temp", "image") if getattr(dataflow, k) is None]
    if missing:
        raise ConfigError(f"runner.dataflow: needs {', '.join(missing)}")
    accelerator = dataflow.accelerator and f"worker_accelerator={dataflow.accelerator}"
    return NO_PIP_FREEZE | {
        "runner": "DataflowRunner",
        "project": dataflow.project,
        "region": dataflow.region,
        "temp_location": dataflow.temp,
        "sdk_container_image": dataflow.image,
        "sdk_location": "container",
        "no_save_main_session": True,
        "machine_type": dataflow.machine_type,
        "disk_size_gb": dataflow.disk_gb,
        "num_workers": dataflow.workers,
        "max_num_workers": dataflow.max_workers,
        "service_account_email": dataflow.service_account,
        "network": dataflow.network,
        "subnetwork": dataflow.subnetwork,
        "no_use_public_ips": not dataflow.public_ips,
        "dataflow_service_options": accelerator,
    }
