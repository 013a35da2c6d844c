"""A worker with other code than the submitter's would write other bytes: it refuses."""

import dataclasses
from pathlib import Path

import pytest

from pipelines.engines.version import code_version
from pipelines.stage import Place
from shards import schema


def test_a_worker_with_other_code_writes_nothing(tmp_path: Path):
    here = Place("a/b", tmp_path, tmp_path / "out", (), (), 1)
    assert here.version == code_version()
    there = dataclasses.replace(here, version="0" * 16)
    nothing = schema.DROP.empty_table()
    with pytest.raises(RuntimeError, match="another version of mixwright"):
        there.write(0, None, nothing, read={}, kept={})
    assert list(tmp_path.iterdir()) == []
    here.write(0, None, nothing, read={}, kept={})
    assert here.has(0)
