"""What a recipe says of the engine that runs it."""

from typing import Annotated, Literal

from pydantic import Field

from configs.reading import Positive, Strict


class Cluster(Strict):
    """A Spark or Flink cluster, and how its machines run Python."""

    # Of a Beam job server that is running, as host:port. Without one Beam starts its own, which
    # it has to download, and `master` says for which cluster.
    job_endpoint: str | None = None
    master: str | None = None  # spark://host:7077, or host:8081 of a Flink job manager
    # Python workers: in a container of `image` on each machine; in a Beam worker pool that runs
    # beside each executor, at `pool`; or in this process, for clusters on one machine.
    environment: Literal["docker", "external", "loopback"] = "docker"
    image: str | None = None
    pool: str = "localhost:50000"


class Dataflow(Strict):
    """Google Cloud Dataflow."""

    project: str | None = None
    region: str | None = None
    temp: str | None = None  # gs://bucket/folder for what Dataflow stages
    image: str | None = None  # of the workers; the Dockerfile makes it
    machine_type: str | None = None
    disk_gb: Positive | None = None
    workers: Positive | None = None  # to begin with
    max_workers: Positive | None = None
    service_account: str | None = None
    network: str | None = None
    subnetwork: str | None = None
    public_ips: bool = True
    accelerator: str | None = None  # "type:nvidia-tesla-t4;count:1;install-nvidia-driver"


Engine = Literal["local", "spark", "flink", "dataflow"]


class Runner(Strict):
    """Where the Beam graphs run."""

    engine: Engine = "local"
    workers: Annotated[int, Field(ge=0)] = 0  # local processes; 0 is one a core
    spark: Cluster = Cluster()
    flink: Cluster = Cluster()
    dataflow: Dataflow = Dataflow()
    # Any others of Beam's, as they are; a list gives an option several times.
    options: dict[str, str | int | float | bool | list[str] | None] = {}
    core_hour_price: Annotated[float, Field(ge=0)] | None = None  # for the report's costs, in USD
