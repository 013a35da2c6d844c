"""Environments of the projects that benchmarks compare: one each, made when it is needed.

That takes a package index, minutes and up to a gigabyte, once; MIXWRIGHT_PEERS names another folder
for them than ~/.cache/mixwright/peers.
"""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import checkout

from pipelines.engines.version import PACKAGES


def environment(name: str, requirements: Sequence[str]) -> Path:
    """The Python of an environment that has `requirements`, as pip writes them.

    It is made again when they change; one that was not finished is made anew.

    Raises:
        subprocess.CalledProcessError: pip could not install them.
    """
    folder = _folder() / f"{name}-{_digest(requirements)}"
    python = folder / "bin" / "python"
    done = folder / "requirements.txt"
    if not done.exists():
        print(f"installing {', '.join(requirements)} into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        done.write_text("\n".join(requirements))
    return python


@cache
def own() -> Path:
    """The Python of an environment as pip makes it for who runs this checkout's pipelines.

    It has no other extra's libraries, and is made again when `pyproject.toml` changes. The checkout
    is compiled, as pip does with all that it does not leave where it is.
    """
    about = _digest([(checkout.ROOT / "pyproject.toml").read_text()])
    python = environment(f"mixwright-{about}", ["--editable", f"{checkout.ROOT}[pipelines]"])
    subprocess.run([python, "-m", "compileall", "-q", *PACKAGES], cwd=checkout.ROOT, check=True)
    return python


def _folder() -> Path:
    default = Path.home() / ".cache" / "mixwright" / "peers"
    return Path(os.environ.get("MIXWRIGHT_PEERS", default))


def _digest(requirements: Sequence[str]) -> str:
    key = "\n".join([sys.version, *requirements])
    return sha256(key.encode()).hexdigest()[:8]
