"""The `storage:` section of recipes: how object stores are reached."""

from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, ValidationInfo

from configs.reading import Strict
from shards.storage import Location, location
from shards.stores.options import GcsOptions, S3Options, StorageOptions


class S3(Strict):
    """S3 and what speaks its protocol; what is left out comes from the environment, as in boto3."""

    endpoint: str | None = None  # the URL of another service than Amazon's
    region: str | None = None
    profile: str | None = None  # of ~/.aws/config
    anonymous: bool = False  # public buckets, without credentials
    requester_pays: bool = False


class Gcs(Strict):
    """Google Cloud Storage; credentials are the environment's."""

    endpoint: str | None = None
    project: str | None = None
    anonymous: bool = False
    requester_pays: bool = False  # bills `project`


class Storage(Strict):
    """For paths such as s3://bucket/folder and gs://bucket/folder."""

    s3: S3 = S3()
    gcs: Gcs = Gcs()

    def options(self) -> StorageOptions:
        """What travels with every location, over what the environment says."""
        found = StorageOptions.from_environment()
        s3 = vars(found.s3) | self.s3.model_dump(exclude_unset=True)
        gcs = vars(found.gcs) | self.gcs.model_dump(exclude_unset=True)
        return StorageOptions(S3Options(**s3), GcsOptions(**gcs))


def _located(value: Any, info: ValidationInfo) -> Any:
    storage: Storage | None = info.data.get("storage")
    return location(value, storage.options() if storage else None)


# A path or URL of a model whose field `storage` stands before it.
Place = Annotated[Location, PlainValidator(_located), PlainSerializer(str)]
