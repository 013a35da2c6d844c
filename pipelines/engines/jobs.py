"""What a Beam job server still runs for us after the process that submitted it was killed.

A job goes on without its submitter, and Spark's server runs one at a time: the run that resumes
would be refused. The old job is cancelled first; all that it has written is kept, since a stage's
parts are whole or not there, and the same on every attempt.
"""

import time

import grpc
from apache_beam.portability.api import beam_job_api_pb2, beam_job_api_pb2_grpc

State = beam_job_api_pb2.JobState
ENDED = (State.DONE, State.FAILED, State.CANCELLED, State.DRAINED, State.UPDATED)
PATIENCE = 60.0  # seconds for the executors of a cancelled job to go


def cancel_abandoned(endpoint: str, job_name: str) -> int:
    """Cancel the jobs of this name, wait until they are gone, and say how many there were.

    Raises:
        ConnectionError: there is no job server at `endpoint`.
        TimeoutError: a cancelled job has not ended.
    """
    with grpc.insecure_channel(endpoint) as channel:
        server = beam_job_api_pb2_grpc.JobServiceStub(channel)
        try:
            ours = _running(server, job_name)
        except grpc.RpcError as error:
            raise ConnectionError(
                f"no Beam job server answers at {endpoint}: start it, or correct job_endpoint"
            ) from error
        for job in ours:
            server.Cancel(beam_job_api_pb2.CancelJobRequest(job_id=job))
        until = time.monotonic() + PATIENCE
        while _running(server, job_name):
            if time.monotonic() > until:
                raise TimeoutError(f"{endpoint}: job {job_name} was cancelled but does not end")
            time.sleep(0.5)
    return len(ours)


def _running(server: beam_job_api_pb2_grpc.JobServiceStub, job_name: str) -> list[str]:
    jobs = server.GetJobs(beam_job_api_pb2.GetJobsRequest(), timeout=PATIENCE).job_info
    return [job.job_id for job in jobs if job_name in _names(job) and job.state not in ENDED]


def _names(job: beam_job_api_pb2.JobInfo) -> tuple[str, str]:
    """Spark's and Flink's servers name a job by its options, others only keep these."""
    options = job.pipeline_options.fields
    return job.job_name, options["beam:option:job_name:v1"].string_value
