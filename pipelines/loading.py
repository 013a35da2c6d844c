"""Importing much at once."""

import gc
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from typing import Any


class _Spared(MetaPathFinder):
    """Finds nothing of what Beam, Arrow and albumentations import for uses that are none of ours.

    Together Beam's BigQuery and S3, data frames, MongoDB and a hub of transforms take a second. All
    of them are optional, and what looks for one later finds it.
    """

    names = ("apache_beam.io.gcp.bigquery", "boto3", "huggingface_hub", "pandas", "pymongo")

    def find_spec(self, name: str, *_: Any) -> None:
        if name in self.names:
            raise ModuleNotFoundError(f"{name} is not for what is loaded here", name=name)


@contextmanager
def loading() -> Iterator[None]:
    """A block of imports that does without what is only slow to import.

    No garbage is looked for either, nor later among what is imported: there is none, and looking
    takes a third of the time in which Beam is, and half a second when the process ends. What Beam
    says of optional packages that are missing is no news to who has not asked for them.
    """
    spared = _Spared()
    sys.meta_path.insert(0, spared)
    logging.disable(logging.WARNING)
    gc.disable()
    try:
        _have_arrow_look()
        yield
    finally:
        gc.freeze()
        gc.enable()
        logging.disable(logging.NOTSET)
        sys.meta_path.remove(spared)


def _have_arrow_look() -> None:
    """Let Arrow look for data frames, which it does once, at the first array, if it comes late."""
    import pyarrow as pa

    pa.array([0])
