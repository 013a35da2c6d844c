"""Beam options for each engine."""

import os

from apache_beam.options.pipeline_options import PipelineOptions

from pipelines.config import Runner


def pipeline_options(runner: Runner) -> PipelineOptions:
    """Options of the local engine: Beam's in-process runner with one worker process a core.

    Of Beam's local modes only the multi-processing one uses every core for Python code
    (`benchmarks/engines.py`). The runner is named outright because a plain DirectRunner first
    looks for a Prism binary on the network.
    """
    _keep_freed_memory()
    workers = runner.workers or os.cpu_count() or 1
    return PipelineOptions(
        [
            "--runner=FnApiRunner",
            "--direct_running_mode=multi_processing",
            f"--direct_num_workers={workers}",
            "--default_sdk_harness_log_level=WARNING",
        ]
    )


def _keep_freed_memory() -> None:
    """Let worker processes reuse large buffers that they free, if glibc allocates them.

    By default it gives each tensor's memory back to the kernel and asks for it again, which took
    about half of the time of scoring the sample. The bounds keep a worker near 1.4 GB there.
    """
    os.environ.setdefault("MALLOC_MMAP_THRESHOLD_", str(2**28))
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**28))
