"""Google Cloud Storage, by Google's own client.

Every request is tried again after a status that asks for it, a timeout or a dropped connection,
with exponential back-off and jitter, for a minute. Whole objects are compared with their CRC32C;
the service gives no checksum of a range, so what is read by range has to be checked by the reader.
"""

import base64
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from shards.stores.options import GcsOptions

try:
    import google_crc32c
    from google.api_core import exceptions
    from google.auth.credentials import AnonymousCredentials
    from google.auth.exceptions import DefaultCredentialsError, RefreshError
    from google.cloud.storage import Blob, Client
    from google.cloud.storage.exceptions import DataCorruption
    from google.cloud.storage.retry import DEFAULT_RETRY
    from requests import Timeout
    from requests.adapters import HTTPAdapter
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"gs:// needs {error.name}: pip install 'mixwright[gcs]'", name=error.name
    ) from error

RETRY = DEFAULT_RETRY.with_delay(initial=0.5, maximum=10.0).with_timeout(60.0)
TIMEOUT = (10.0, 60.0)  # seconds to connect, and between bytes
CHUNK = 16 << 20  # bytes of an upload that are sent again when its connection breaks
BATCH = 100  # calls in one request, the service's limit
CONNECTIONS = 64  # kept open for reading in parallel
CALL: dict[str, Any] = {"timeout": TIMEOUT}
LOGIN = (
    "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS, "
    "or say `anonymous: true` for a public bucket"
)


class TornError(Exception):
    """What was read is not one whole object, and has to be read again."""


class GcsStore:
    """One bucket. Threads may share it; a process that forks must open its own."""

    def __init__(self, client: Client, bucket: str, payer: str | None) -> None:
        self._client = client
        self._bucket = client.bucket(bucket, user_project=payer)

    def get(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `start`, or all of them, of one generation of the object.

        Raises:
            FileNotFoundError: there is no such object.
            EOFError: the object ends before.
        """
        if length == 0:
            return b""
        again = RETRY.with_predicate(lambda error: isinstance(error, TornError))
        with _errors(self._url(key)):
            return bytes(again(self._download)(key, start, length))

    def _download(self, key: str, start: int, length: int | None) -> bytes:
        blob, body = self._bucket.blob(key), io.BytesIO()
        end = None if length is None else start + length - 1
        try:
            # A broken body is continued where it broke, at the generation that it began with.
            blob.download_to_file(
                body, start=start or None, end=end, raw_download=True, checksum=None,
                retry=RETRY, **CALL,
            )  # fmt: skip
        except exceptions.RequestRangeNotSatisfiable as error:
            raise EOFError(f"{self._url(key)} ends before byte {start}") from error
        except exceptions.NotFound as error:
            if body.tell():
                raise TornError("replaced while it was read") from error
            raise
        data = body.getvalue()
        if length is not None and len(data) < length:
            raise EOFError(f"{self._url(key)} ends before byte {start + length}")
        if not start and end is None and _crc32c(data) != blob.crc32c:
            raise TornError("its checksum does not match")
        return data

    def size(self, key: str) -> int:
        """The object's length in bytes; raises FileNotFoundError."""
        return int(self._metadata(key).size)

    def version(self, key: str) -> str:
        """The object's generation, another one after every upload; raises FileNotFoundError."""
        return str(self._metadata(key).generation)

    def _metadata(self, key: str) -> Blob:
        blob = self._bucket.blob(key)
        with _errors(self._url(key)):
            blob.reload(retry=RETRY, **CALL)
        return blob

    def put(self, key: str, file: Path) -> None:
        """Make the object from a local file, whole or not at all.

        Files above 8 MB go up in chunks, and nothing shows before the last one; the service
        forgets an upload that was given up after a week.
        """
        blob = self._bucket.blob(key, chunk_size=CHUNK)
        with _errors(self._url(key)):
            blob.upload_from_filename(str(file), checksum="crc32c", retry=RETRY, **CALL)

    def put_bytes(self, key: str, data: bytes) -> None:
        """Make the object from bytes."""
        kind = "application/octet-stream"
        blob = self._bucket.blob(key, chunk_size=CHUNK)
        with _errors(self._url(key)):
            blob.upload_from_string(data, kind, checksum="crc32c", retry=RETRY, **CALL)

    def copy(self, source: str, key: str) -> None:
        """Make an object of the bucket's from another, inside of the store."""
        token: str | None = ""
        with _errors(self._url(source)):
            while token is not None:  # each answer says how far it got
                blob, target = self._bucket.blob(source), self._bucket.blob(key)
                token, *_ = target.rewrite(blob, token or None, retry=RETRY, **CALL)

    def names(self, folder: str) -> list[str]:
        """The names of objects and folders directly below, sorted."""
        prefix = _prefix(folder)
        with _errors(self._url(folder)):
            listing = self._list(prefix, "/", "items(name),prefixes,nextPageToken")
            # The folders of a page are known once its objects have been gone through.
            found = {blob.name for blob in listing} | set(listing.prefixes)
        return sorted({name[len(prefix) :].rstrip("/") for name in found - {prefix}})

    def keys(self, folder: str) -> Iterator[str]:
        """Every key below, sorted."""
        prefix = _prefix(folder)
        with _errors(self._url(folder)):
            for blob in self._list(prefix, None, "items(name),nextPageToken"):
                if blob.name != prefix:
                    yield blob.name

    def _list(self, prefix: str, delimiter: str | None, fields: str) -> Any:
        return self._bucket.list_blobs(
            prefix=prefix, delimiter=delimiter, fields=fields, retry=RETRY, **CALL
        )

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is no error."""
        waiting = iter(keys)
        while batch := list(islice(waiting, BATCH)):
            with _errors(self._url("")):
                RETRY(self._delete)(batch)

    def _delete(self, keys: list[str]) -> None:
        """Delete at most `BATCH` objects, and take those that are gone off the list."""
        with self._client.batch(raise_exception=False) as batch:
            for key in keys:
                self._bucket.blob(key).delete(**CALL)
        # Google's client keeps the answers of a batch to itself; Beam reads them here too.
        answers = dict(zip(keys, batch._responses, strict=True))
        keys[:] = [key for key, r in answers.items() if not (r.ok or r.status_code == 404)]
        if keys:
            raise exceptions.from_http_response(answers[keys[0]])

    def _url(self, key: str) -> str:
        return f"gs://{self._bucket.name}/{key}"


def open_store(bucket: str, options: GcsOptions) -> GcsStore:
    """A bucket, without asking the service whether there is one.

    Raises:
        PermissionError: there are no credentials.
        ValueError: the requester is to pay, but no project is named.
    """
    project = options.project or os.environ.get("GOOGLE_CLOUD_PROJECT")
    if options.requester_pays and not project:
        raise ValueError(f"gs://{bucket}: requester_pays bills a project: set `project`")
    # Else a thread of the client asks for the bucket's metadata, for traces that nobody reads.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
    with _errors(f"gs://{bucket}"):
        client = Client(
            project=project,
            credentials=AnonymousCredentials() if options.anonymous else None,
            client_options={"api_endpoint": options.endpoint} if options.endpoint else None,
        )
    for scheme in ("http://", "https://"):
        client._http.mount(scheme, HTTPAdapter(pool_maxsize=CONNECTIONS))
    return GcsStore(client, bucket, project if options.requester_pays else None)


def _prefix(folder: str) -> str:
    return f"{folder}/" if folder else ""


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.value(data).to_bytes(4, "big")).decode()


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Google's errors as Python's own, which say what can be done."""
    try:
        yield
    except exceptions.NotFound as error:
        raise FileNotFoundError(f"{url}: no such object or no such bucket") from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise PermissionError(f"{url}: {error.message}; {LOGIN}") from error
    except (DefaultCredentialsError, RefreshError) as error:
        raise PermissionError(f"{url}: no valid credentials: {LOGIN}") from error
    except exceptions.RetryError as error:
        kind = TimeoutError if isinstance(error.cause, Timeout) else ConnectionError
        raise kind(f"{url}: gave up after {RETRY.timeout:g} s: {error.cause}") from error
    except (exceptions.GoogleAPICallError, DataCorruption) as error:
        raise OSError(f"{url}: {error}") from error
