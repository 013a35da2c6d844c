"""Buckets of Amazon S3 and of other services that speak its protocol."""

import random
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from shards.stores.options import S3Options

try:
    import boto3
    import urllib3
    from boto3.s3.transfer import TransferConfig, create_transfer_manager
    from botocore import UNSIGNED, exceptions
    from botocore.config import Config
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("s3:// needs boto3: pip install 'mixwright[s3]'") from missing

PATIENCE = 60.0  # seconds without progress before an error is final
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 8.0  # seconds
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # seconds
MULTIPART = 16 << 20  # bytes; longer files go up in parts
PART, PARTS_AT_ONCE = 8 << 20, 8
CONNECTIONS = 32 + PARTS_AT_ONCE
BLOCK = 256 << 10  # bytes; at most so much is read twice when a connection breaks
PAGE = 1000  # keys in one request, S3's limit

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
TEMPORARY_STATUSES = {429, 500, 502, 503, 504}
TEMPORARY = {"BadDigest", "IncompleteBody", "InternalError", "OperationAborted", "RequestTimeout"}
TEMPORARY |= {"ServiceUnavailable", "SlowDown"}
UNREACHED = (exceptions.ConnectionError, exceptions.HTTPClientError)
BROKEN = (exceptions.HTTPClientError, exceptions.IncompleteReadError, urllib3.exceptions.HTTPError)
TIMED_OUT = (exceptions.ConnectTimeoutError, exceptions.ReadTimeoutError)
NO_CREDENTIALS = (
    exceptions.CredentialRetrievalError,
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.SSOError,
    exceptions.TokenRetrievalError,
)


class _UnsettledError(ConnectionError):
    """An answer came whole, but only another attempt can succeed."""


class _Patience:
    """Exponential back-off with full jitter until PATIENCE is over.

    Source: M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015.
    """

    def __init__(self) -> None:
        self._end = time.monotonic() + PATIENCE
        self._ceiling = FIRST_PAUSE

    def pause(self) -> float | None:
        """Seconds to wait before the next attempt, None if there should be none."""
        if time.monotonic() >= self._end:
            return None
        pause = random.uniform(0, self._ceiling)
        self._ceiling = min(2 * self._ceiling, LONGEST_PAUSE)
        return pause

    def wait(self, error: Exception) -> None:
        """Waits for the next attempt; raises `error` if there should be none."""
        pause = self.pause()
        if pause is None:
            raise error
        time.sleep(pause)


def _repeated(attempt: Callable[[], Any], errors: tuple[type[Exception], ...]) -> Any:
    patience = _Patience()
    while True:
        try:
            return attempt()
        except errors as error:
            patience.wait(error)


def _pause_before_repeat(
    response: tuple[Any, dict[str, Any]] | None,
    caught_exception: Exception | None,
    request_dict: dict[str, Any],
    **_: object,
) -> float | None:
    """Answers botocore's `needs-retry` for every request, a part's and an abort's too.

    Botocore's own rules give up after a number of attempts and when many threads meet the same
    outage (their quota of retries is the client's), and neither is a length of time.
    """
    if response is None:
        temporary = isinstance(caught_exception, UNREACHED)
    else:
        temporary = _is_temporary(response[1])
    return (
        request_dict["context"].setdefault("patience", _Patience()).pause() if temporary else None
    )


def _is_temporary(answer: dict[str, Any]) -> bool:
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status in TEMPORARY_STATUSES or answer.get("Error", {}).get("Code") in TEMPORARY


def _add_payer(params: dict[str, Any], model: Any, **_: object) -> None:
    if "RequestPayer" in model.input_shape.members:
        params["RequestPayer"] = "requester"


def open_store(bucket: str, options: S3Options) -> "S3Store":
    """The bucket as `options` say; sends no request yet.

    Raises:
        PermissionError: there is no such profile.
    """
    settings: dict[str, Any] = {}
    if options.anonymous:
        settings["signature_version"] = UNSIGNED
    if options.endpoint:
        settings["s3"] = {"addressing_style": "path"}
        # Not every service knows the checksums that Amazon's added in 2025.
        settings["request_checksum_calculation"] = "when_required"
    try:
        session = boto3.Session(profile_name=options.profile, region_name=options.region)
    except exceptions.ProfileNotFound as error:
        raise PermissionError(f"s3://{bucket}: {error}; see ~/.aws/config") from error
    config = Config(
        connect_timeout=CONNECT_TIMEOUT,
        max_pool_connections=CONNECTIONS,
        read_timeout=READ_TIMEOUT,
        retries={"mode": "standard", "total_max_attempts": 1},
        tcp_keepalive=True,
        **settings,
    )
    client = session.client("s3", endpoint_url=options.endpoint, config=config)
    client.meta.events.register("needs-retry.s3", _pause_before_repeat)
    if options.requester_pays:
        client.meta.events.register("before-parameter-build.s3", _add_payer)
    return S3Store(client, bucket)


class S3Store:
    """One bucket, as `shards.stores.Store` describes it.

    Raises, besides what the methods say:
        PermissionError: credentials are missing or not allowed to do this.
        ConnectionError, TimeoutError: the service did not recover while PATIENCE lasted.
    """

    def __init__(self, client: Any, bucket: str) -> None:
        self._client = client
        self._bucket = bucket

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `start`, or all of them, of one version of the object.

        Raises:
            FileNotFoundError: there is no such object.
            EOFError: the object ends before.
        """
        if length == 0 or (length is None and start > 0):
            # HTTP has no empty range, and none that may begin at the end.
            rest = self.size(key) - start
            if rest < 0:
                raise EOFError(f"{self._url(key)} ends before byte {start}")
            length = rest if length is None else 0
        if length == 0:
            return b""
        with self._named_errors(key):
            attempt = partial(self._read, key, start, length)
            return bytes(_repeated(attempt, (_UnsettledError, exceptions.FlexibleChecksumError)))

    def _read(self, key: str, start: int, length: int | None) -> bytearray:
        answer = self._open(key, start, length)
        data, length, patience = bytearray(), answer["ContentLength"], _Patience()
        while True:
            try:
                for block in answer["Body"].iter_chunks(BLOCK):
                    data += block
                    patience = _Patience()
                return data
            except BROKEN as error:
                patience.wait(error)
            if len(data) == length:
                return data
            rest = length - len(data)
            answer = self._open(key, start + len(data), rest, IfMatch=answer["ETag"])

    def _open(self, key: str, start: int, length: int | None, **condition: str) -> dict[str, Any]:
        if length is not None:
            condition["Range"] = f"bytes={start}-{start + length - 1}"
        short = EOFError(f"{self._url(key)} ends before byte {start + (length or 0)}")
        try:
            answer: dict[str, Any] = self._request("get_object", Key=key, **condition)
        except exceptions.ClientError as error:
            match error.response["ResponseMetadata"]["HTTPStatusCode"]:
                case 412:
                    raise _UnsettledError("the object changed while it was read") from error
                case 416:
                    raise short from error
            raise
        if length is not None and answer["ContentLength"] != length:
            answer["Body"].close()
            raise short
        return answer

    def size(self, key: str) -> int:
        """The object's length in bytes; raises FileNotFoundError."""
        with self._named_errors(key):
            return int(self._request("head_object", Key=key)["ContentLength"])

    def version(self, key: str) -> str:
        """The object's ETag; raises FileNotFoundError."""
        with self._named_errors(key):
            return str(self._request("head_object", Key=key)["ETag"])

    def put(self, key: str, file: Path) -> None:
        """Make the object from a local file, whole or not at all."""
        with self._named_errors(key):
            # A completion whose answer was lost finds no upload the second time.
            unsettled = (*BROKEN, self._client.exceptions.NoSuchUpload)
            _repeated(partial(self._upload, key, file), unsettled)

    def _upload(self, key: str, file: Path) -> None:
        config = TransferConfig(
            multipart_threshold=MULTIPART, multipart_chunksize=PART, max_concurrency=PARTS_AT_ONCE
        )
        with create_transfer_manager(self._client, config) as manager:
            manager.upload(str(file), self._bucket, key).result()

    def put_bytes(self, key: str, data: bytes) -> None:
        """Make the object from bytes."""
        with self._named_errors(key):
            self._request("put_object", Key=key, Body=data)

    def copy(self, source: str, key: str) -> None:
        """Make an object of the bucket's from another, of at most 5 GB, inside of the store."""
        with self._named_errors(source):
            self._request(
                "copy_object", Key=key, CopySource={"Bucket": self._bucket, "Key": source}
            )

    def names(self, folder: str) -> list[str]:
        """The names of objects and folders directly below, sorted."""
        found: set[str] = set()
        for page in self._pages(folder, Delimiter="/"):
            found.update(entry["Key"] for entry in page.get("Contents", []))
            found.update(entry["Prefix"] for entry in page.get("CommonPrefixes", []))
        skip = len(_prefix(folder))
        # The folder itself is found where a console has marked it by an empty object.
        return sorted({key[skip:].rstrip("/") for key in found} - {""})

    def keys(self, folder: str) -> Iterator[str]:
        """Every key below, sorted."""
        for page in self._pages(folder):
            found = (entry["Key"] for entry in page.get("Contents", []))
            yield from (key for key in found if not key.endswith("/"))

    def _pages(self, folder: str, **options: str) -> Iterator[dict[str, Any]]:
        while True:
            with self._named_errors(folder):
                page = self._request("list_objects_v2", Prefix=_prefix(folder), **options)
            yield page
            if not page["IsTruncated"]:
                return
            options["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        rest = iter(keys)
        while batch := set(islice(rest, PAGE)):
            with self._named_errors(min(batch)):
                _repeated(partial(self._delete, batch), (_UnsettledError,))

    def _delete(self, batch: set[str]) -> None:
        objects = [{"Key": key} for key in sorted(batch)]
        answer = self._request("delete_objects", Delete={"Objects": objects, "Quiet": True})
        failures = {failure["Key"]: failure for failure in answer.get("Errors", [])}
        batch.intersection_update(failures)  # what the next attempt has to do
        for failure in failures.values():
            if failure["Code"] not in TEMPORARY:
                raise exceptions.ClientError({"Error": failure}, "DeleteObjects")
        if batch:
            raise _UnsettledError(f"{len(batch)} keys could not be deleted")

    def _request(self, operation: str, **arguments: Any) -> Any:
        method = getattr(self._client, operation)
        return _repeated(partial(method, Bucket=self._bucket, **arguments), BROKEN)

    def _url(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    @contextmanager
    def _named_errors(self, key: str) -> Iterator[None]:
        """Turns the library's errors into the builtin ones that name the URL and the mend."""
        try:
            yield
        except exceptions.ClientError as error:
            raise _builtin(error.response, self._url(key)) from error
        except NO_CREDENTIALS as error:
            raise PermissionError(
                f"{self._url(key)}: {error}; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "name a profile, or say `anonymous` if the bucket is public"
            ) from error
        except TIMED_OUT as error:
            raise TimeoutError(f"{self._url(key)}: {error}") from error
        except (*UNREACHED, *BROKEN, exceptions.FlexibleChecksumError, _UnsettledError) as error:
            raise ConnectionError(f"{self._url(key)}: {error}") from error


def _prefix(folder: str) -> str:
    return f"{folder.rstrip('/')}/" if folder else ""


def _builtin(answer: dict[str, Any], url: str) -> OSError:
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code, message = answer["Error"]["Code"], answer["Error"].get("Message", "")
    if _is_temporary(answer):
        return ConnectionError(f"{url}: the service still says {code} after {PATIENCE:g} s")
    if code == "NoSuchBucket":
        return FileNotFoundError(f"{url}: there is no such bucket")
    if code in ("404", "NoSuchKey"):
        return FileNotFoundError(f"{url}: there is no such object")
    if status in (401, 403) or code in ("AccessDenied", "ExpiredToken", "InvalidToken"):
        return PermissionError(
            f"{url}: {code}: {message}; the credentials do not allow this, or the bucket needs "
            "`requester_pays`, or may not be listed and has no such object"
        )
    return OSError(f"{url}: {code}: {message}")
