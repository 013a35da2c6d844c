"""Thumbnails of stored images."""

import base64
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
from PIL import Image

from shards import ledger, storage
from shards.images import open_image, read_image
from shards.report.stages import Stage
from shards.storage import Location

THUMBNAIL = 150  # pixels of the longer side
PICTURE_BYTES = 1_600_000  # of all thumbnails, before base64 adds a third

Place = tuple[str, Location, str, int, int]  # sha256, store, tar, offset and length


@dataclass
class Pictures:
    """Thumbnails of stored images as data URIs, until the page's room for pictures is used up."""

    stores: Sequence[Stage]  # those with an index
    room: int = PICTURE_BYTES
    skipped: int = 0  # stored, but not shown: not decodable, or no room
    made: dict[str, str | None] = field(default_factory=dict)

    def find(self, names: Iterable[str | None]) -> dict[str, str]:
        """Data URIs by sha256, of those images that are in a store and can be shown."""
        wanted = sorted({name for name in names if name} - self.made.keys())
        self.made |= dict.fromkeys(wanted)
        places = list(dict.fromkeys(self._places(wanted)))
        bodies = storage.in_parallel(_stored, places)
        for (name, *_), body in zip(places, bodies, strict=True):
            if self.made[name] is None:
                self.made[name] = self.show(body)
        return {name: uri for name in names if name and (uri := self.made[name])}

    def _places(self, wanted: list[str]) -> Iterator[Place]:
        columns = ["sha256", "tar", "offset", "length"]

        def read(file: Location) -> pa.Table:
            return storage.read_table(file, columns, filters=[("sha256", "in", wanted)])

        for stage in self.stores if wanted else ():
            for rows in storage.in_parallel(read, ledger.part_files(stage.folder, "index")):
                for name, *place in zip(*(rows[c].to_pylist() for c in columns), strict=True):
                    yield name, stage.folder, *place

    def show(self, body: bytes) -> str | None:
        """The data URI of a thumbnail, or None, counted in `skipped`."""
        try:
            small = _thumbnail(body)
        except Exception:  # a decoder fed with a stranger's bytes raises anything
            small = b""
        if not small or len(small) > self.room:
            self.skipped += 1
            return None
        self.room -= len(small)
        return "data:image/jpeg;base64," + base64.b64encode(small).decode()


def _stored(place: Place) -> bytes:
    """The bytes of a stored image; none if the store was moved away since."""
    _, store, tar, offset, length = place
    try:
        return read_image(store, tar, offset, length)
    except (OSError, EOFError):
        return b""


def _thumbnail(body: bytes) -> bytes:
    image = open_image(body)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=76, optimize=True)
    return out.getvalue()
