"""Blocks of imports: what they go without, and that all is as before after them."""

import gc
import subprocess
import sys

from pipelines.loading import loading

LOADS = """
import sys
from pipelines.loading import loading
with loading():
    import apache_beam
import pyarrow
pyarrow.array([1])  # would import pandas
print(sorted({"apache_beam.io.gcp.bigquery", "boto3", "pandas", "pymongo"} & sys.modules.keys()))
import apache_beam.io.gcp.bigquery, boto3, pandas
print(pyarrow.table({"a": [1, 2]}).to_pandas()["a"].sum())
"""


def test_imports_are_not_interrupted_by_a_search_for_garbage() -> None:
    with loading():
        assert not gc.isenabled()
        made = [[] for _ in range(1000)]
    assert gc.isenabled() and gc.get_freeze_count() >= len(made)


def test_beam_is_loaded_in_silence_without_what_it_can_do_without() -> None:
    done = subprocess.run([sys.executable, "-c", LOADS], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n3\n", "")
