"""benchmarks/checkout.py: scripts measure what lies beside them, not what is installed."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import checkout
import pytest

SCRIPTS = sorted(Path(checkout.__file__).parent.glob("*.py"))
PROJECT = ("from filters", "from pipelines", "from shards", "from tests", '"pipelines.cli"')
ASK = "import shards; print(shards.__file__)"


def test_a_script_and_what_it_starts_import_their_own_checkout(tmp_path: Path) -> None:
    """The project is installed here, and another copy of it is beside the script."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "__init__.py").touch()
    shutil.copy(checkout.__file__, tmp_path / "benchmarks")
    script = tmp_path / "benchmarks" / "script.py"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ASK!r}], check=True)"
    script.write_text(f"import checkout\n{ASK.replace(')', ', flush=True)')}\n{child}\n")
    elsewhere = os.environ | {"PYTHONPATH": str(checkout.ROOT)}
    command = [sys.executable, str(script)]
    done = subprocess.run(
        command, cwd=script.parent, env=elsewhere, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [str(tmp_path / "shards" / "__init__.py")] * 2


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_that_uses_the_project_imports_it_first(script: Path) -> None:
    source = script.read_text(encoding="utf-8")
    used = [source.index(word) for word in PROJECT if word in source]
    assert not used or source.index("\nimport checkout") < min(used)
