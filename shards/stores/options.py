"""How to reach object stores: small values that travel to workers with every location."""

import os
from dataclasses import dataclass, field


def _flag(name: str) -> bool:
    return os.environ.get(name, "").lower() in ("1", "true", "yes")


@dataclass(frozen=True)
class S3Options:
    """What a recipe may say of S3; what is None comes from the environment, as boto3 reads it."""

    endpoint: str | None = None  # of another service that speaks S3's protocol
    region: str | None = None
    profile: str | None = None  # of ~/.aws/config
    anonymous: bool = False  # public buckets, without credentials
    requester_pays: bool = False

    @classmethod
    def from_environment(cls) -> "S3Options":
        """For commands without a recipe: the two that boto3 has no variable for."""
        return cls(
            anonymous=_flag("MIXWRIGHT_S3_ANONYMOUS"),
            requester_pays=_flag("MIXWRIGHT_S3_REQUESTER_PAYS"),
        )


@dataclass(frozen=True)
class GcsOptions:
    """What a recipe may say of GCS; what is None comes from the environment."""

    endpoint: str | None = None
    project: str | None = None
    anonymous: bool = False
    requester_pays: bool = False  # bills `project`

    @classmethod
    def from_environment(cls) -> "GcsOptions":
        """For commands without a recipe."""
        return cls(
            anonymous=_flag("MIXWRIGHT_GCS_ANONYMOUS"),
            requester_pays=_flag("MIXWRIGHT_GCS_REQUESTER_PAYS"),
        )


@dataclass(frozen=True)
class StorageOptions:
    """The options of every kind of object store."""

    s3: S3Options = field(default_factory=S3Options)
    gcs: GcsOptions = field(default_factory=GcsOptions)

    @classmethod
    def from_environment(cls) -> "StorageOptions":
        """For commands without a recipe."""
        return cls(S3Options.from_environment(), GcsOptions.from_environment())
