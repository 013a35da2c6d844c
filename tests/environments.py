"""Environments with one extra installed and no more: venvs of links, made without a download.

A link stands for every file of the distributions that pip would install for `mixwright[extra]`:
those of the environment that runs the tests, found by the requirements in pyproject.toml and in
the metadata of each distribution. The project's own folders are links as well. An import of what
no requirement brings fails there as it does for a user.
"""

import os
import subprocess
import sysconfig
import tomllib
import venv
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAME: str = PROJECT["project"]["name"]
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
FOLDERS: list[str] = PROJECT["tool"]["setuptools"]["packages"]


@dataclass(frozen=True)
class Environment:
    """A venv; commands run in its folder, and see neither the checkout nor PYTHON* variables."""

    folder: Path

    @property
    def site_packages(self) -> Path:
        paths = {"base": str(self.folder), "platbase": str(self.folder)}
        return Path(sysconfig.get_path("purelib", "venv", paths))

    def python(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run the venv's interpreter; never raises for its exit code."""
        command = [str(self.folder / "bin" / "python"), "-I", *map(str, arguments)]
        return subprocess.run(
            command, cwd=self.folder, env=_variables(), capture_output=True, text=True, check=False
        )

    def mixwright(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run the command line by its installed script."""
        return self.python(Path(sysconfig.get_path("scripts")) / NAME, *arguments)


def _variables() -> dict[str, str]:
    return {"PATH": os.defpath, "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}


def create(folder: Path, extra: str | None) -> Environment:
    """Make a venv of what `pip install mixwright[extra]` installs, or a plain install."""
    venv.create(folder, symlinks=True, with_pip=False)
    made = Environment(folder)
    wanted = Requirement(f"{NAME}[{extra}]" if extra else NAME)
    for name in sorted(closure(wanted) - {NAME}):
        _link(distribution(name), made.site_packages)
    for own in FOLDERS:
        (made.site_packages / own).symlink_to(ROOT / own)
    metadata = f"{NAME}-{PROJECT['project']['version']}.dist-info"
    source = distribution(NAME).locate_file(metadata)
    (made.site_packages / metadata).symlink_to(str(source))
    return made


def _link(installed: Distribution, site_packages: Path) -> None:
    """Link every file of a distribution but its scripts; the first to bring a file keeps it."""
    for file in installed.files or ():
        if file.parts[0] == "..":
            continue
        link = site_packages / file
        link.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            link.symlink_to(str(file.locate()))


def closure(wanted: Requirement) -> set[str]:
    """The names of all distributions that a requirement brings, its own among them.

    Raises:
        PackageNotFoundError: one of them is not in the environment that runs the tests.
    """
    seen: set[tuple[str, str]] = set()
    _follow(wanted, seen)
    return {name for name, _ in seen}


def _follow(wanted: Requirement, seen: set[tuple[str, str]]) -> None:
    name = canonicalize_name(wanted.name)
    for extra in ("", *wanted.extras):
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        for asked in requirements(name):
            if asked.marker is None or asked.marker.evaluate({"extra": extra}):
                _follow(asked, seen)


def requirements(name: str) -> list[Requirement]:
    """What a distribution asks for; of the project's own, what it asks for now."""
    if name != NAME:
        return [Requirement(line) for line in distribution(name).requires or ()]
    optional = [f'{line}; extra == "{extra}"' for extra in EXTRAS for line in EXTRAS[extra]]
    return [Requirement(line) for line in PROJECT["project"]["dependencies"] + optional]
