"""A job for Google Cloud Dataflow as far as it goes without the service: built, staged and written.

A job is two messages: the pipeline as every engine gets it (transforms, coders, environments), and
Dataflow's own (worker pool, container image, experiments, where the first one is staged).
"""

import json
from collections.abc import Iterator

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, TestOptions
from apache_beam.portability.api import beam_runner_api_pb2
from apache_beam.portability.common_urns import composites, primitives
from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
from apache_beam.runners.pipeline_context import PipelineContext
from google.protobuf import json_format

from shards.storage import Location, read_json, write_json

PIPELINE_FILE, JOB_FILE = "pipeline.json", "job.json"


def write_job(pipeline: beam.Pipeline, folder: Location) -> None:
    """Stage a pipeline's files as for a run, write its two messages to `folder`, submit nothing.

    Build the pipeline with `dry_run` among its options, or Beam asks for credentials on the way.

    Raises:
        ValueError: the pipeline's runner is another one, or an option that Dataflow needs is
            missing.
        FileNotFoundError: there is no such bucket to stage in.
    """
    # Imported on use: Beam imports without its GCP extra, this does not.
    from apache_beam.runners.dataflow.internal.apiclient import DataflowApplicationClient

    if not isinstance(pipeline.runner, DataflowRunner):
        raise ValueError(f"{type(pipeline.runner).__name__} makes no Dataflow job")
    # With this option Beam returns the job where it would stage and submit it.
    pipeline.options.view_as(TestOptions).dry_run = True
    job = pipeline.run().job
    _find_bucket(pipeline.options, job.root_staging_location)
    client = DataflowApplicationClient(pipeline.options, job.root_staging_location)
    client.create_job_description(job)
    write_json(folder / PIPELINE_FILE, json_format.MessageToDict(job.proto_pipeline))
    write_json(folder / JOB_FILE, json.loads(job.json()))


def _find_bucket(options: PipelineOptions, staging: str) -> None:
    """Staging itself would try again for minutes before it says that there is none."""
    from apache_beam.io.gcp.gcsio import create_storage_client, parse_gcs_path

    name, _ = parse_gcs_path(staging, object_optional=True)
    authorized = not options.view_as(GoogleCloudOptions).no_auth
    if create_storage_client(options, authorized).lookup_bucket(name) is None:
        raise FileNotFoundError(f"gs://{name}: no such bucket to stage in")


def read_pipeline(folder: Location) -> beam_runner_api_pb2.Pipeline:
    """The pipeline that `write_job` wrote."""
    message = beam_runner_api_pb2.Pipeline()
    json_format.ParseDict(read_json(folder / PIPELINE_FILE), message)
    return message


def shuffles(pipeline: beam_runner_api_pb2.Pipeline) -> list[tuple[str, str]]:
    """Every grouping and reshuffle with the coder of what goes into it.

    A coder reads as "TupleCoder[VarIntCoder, TableCoder]", a class of Python's as its name. That
    of a reshuffle is its input's, without the keys and times that Beam adds inside. BytesCoder in
    the reshuffle within a Create stands for the pickled elements, which the pipeline contains.
    """
    components = pipeline.components
    context = PipelineContext(components)
    found = []
    for transform in _shuffling(components, pipeline.root_transform_ids):
        (source,) = transform.inputs.values()
        coder = components.pcollections[source].coder_id
        found.append((transform.unique_name, _coder_name(components, context, coder)))
    return found


def _shuffling(
    components: beam_runner_api_pb2.Components, ids: list[str]
) -> Iterator[beam_runner_api_pb2.PTransform]:
    urns = (composites.RESHUFFLE.urn, primitives.GROUP_BY_KEY.urn)
    for transform in (components.transforms[each] for each in ids):
        if transform.spec.urn in urns:
            yield transform
        else:
            yield from _shuffling(components, transform.subtransforms)


def _coder_name(
    components: beam_runner_api_pb2.Components, context: PipelineContext, coder: str
) -> str:
    name = type(context.coders.get_by_id(coder)).__name__
    parts = components.coders[coder].component_coder_ids
    inner = ", ".join(_coder_name(components, context, part) for part in parts)
    return f"{name}[{inner}]" if inner else name


def load_steps(pipeline: beam_runner_api_pb2.Pipeline) -> list[str]:
    """Unpickle every step, as workers do, and give their names.

    What a step is made of has to be importable where this runs, so run it in a fresh process, or
    modules that only the submitting one has would pass.

    Raises:
        Exception: whatever unpickling raises, with a note that names the step.
    """
    context = PipelineContext(pipeline.components)
    names = []
    for transform in pipeline.components.transforms.values():
        try:
            beam.PTransform.from_runner_api(transform, context)
        except Exception as error:
            error.add_note(f"in the step {transform.unique_name}")
            raise
        names.append(transform.unique_name)
    return sorted(names)
