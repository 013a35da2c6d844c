"""Environments with one extra installed and no more.

`link` makes one without a download: a venv of links to the distributions that pip would install
for `mixwright[extra]`. They are those of the environment that runs the tests, found by the
requirements in pyproject.toml and in the metadata of each distribution; the project's own folders
are links as well. An import of what no requirement brings fails there as it does for a user.
`install` asks pip for the same, which takes minutes.
"""

import os
import shutil
import subprocess
import sysconfig
import tomllib
import venv
from dataclasses import dataclass
from functools import cache
from importlib.metadata import distribution, distributions
from pathlib import Path, PurePath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NAME: str = PROJECT["project"]["name"]
OPTIONAL: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
PACKAGES: list[str] = PROJECT["tool"]["setuptools"]["packages"]
FOLDERS = [package for package in PACKAGES if "." not in package]


@dataclass(frozen=True)
class Environment:
    """A venv; commands run in its folder, and see neither the checkout nor PYTHON* variables."""

    folder: Path

    @property
    def site_packages(self) -> Path:
        at = {"base": str(self.folder), "platbase": str(self.folder)}
        return Path(sysconfig.get_path("purelib", "venv", at))

    def python(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run the venv's interpreter; an exit code is no error."""
        command = [str(self.folder / "bin" / "python"), "-I", *map(str, arguments)]
        clean = {"PATH": os.defpath, "HOME": str(self.folder), "LANG": "C.UTF-8"}
        return subprocess.run(
            command, cwd=self.folder, env=clean, capture_output=True, text=True, check=False
        )

    def mixwright(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Run the command line as installed."""
        return self.python(self.folder / "bin" / NAME, *arguments)


def link(folder: Path, extra: str | None) -> Environment:
    """Make a venv of what an extra, or a plain install, brings to this machine."""
    venv.create(folder, symlinks=True)
    made = Environment(folder)
    for path in _apart(closure(_project(NAME, extra)) - {NAME}):
        target = made.site_packages / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(SITE_PACKAGES / path)
    for own in FOLDERS:
        (made.site_packages / own).symlink_to(ROOT / own)
    metadata = f"{NAME}-{PROJECT['project']['version']}.dist-info"
    (made.site_packages / metadata).symlink_to(SITE_PACKAGES / metadata)
    (folder / "bin" / NAME).symlink_to(Path(sysconfig.get_path("scripts")) / NAME)
    return made


def install(folder: Path, extra: str | None) -> Environment:
    """Make a venv by pip, from a copy of the checkout and in the versions of requirements.txt."""
    venv.create(folder, symlinks=True, with_pip=True)
    source = folder / "source"
    for own in FOLDERS:
        shutil.copytree(ROOT / own, source / own, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, source)
    pins = folder / "pins.txt"
    pins.write_text("\n".join(_pins(ROOT / "requirements.txt")), encoding="utf-8")
    wanted = [f"--constraint={pins}", _project(str(source), extra)]
    subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True)
    return Environment(folder)


def _project(where: str, extra: str | None) -> str:
    return f"{where}[{extra}]" if extra else where


def _pins(locked: Path) -> list[str]:
    """The versions without their hashes: with them, pip refuses to install from a folder."""
    lines = locked.read_text(encoding="utf-8").splitlines()
    return [line.removesuffix(" \\") for line in lines if not line.startswith(" ")]


def _apart(names: set[str]) -> set[PurePath]:
    """The topmost paths below site-packages that hold files of these distributions alone."""
    others = {canonicalize_name(other.name) for other in distributions()} - names
    shared = {PurePath(), *(folder for other in others for folder in _folders(other))}
    files = {file for name in names for file in _files(name)}
    paths = ((*reversed(file.parents), file) for file in files)
    return {next(path for path in above if path not in shared) for above in paths}


@cache
def _files(name: str) -> frozenset[PurePath]:
    """What a distribution has in site-packages; its scripts are elsewhere."""
    files = map(PurePath, distribution(name).files or ())
    return frozenset(file for file in files if file.parts[0] != "..")


@cache
def _folders(name: str) -> frozenset[PurePath]:
    return frozenset(folder for file in _files(name) for folder in file.parents)


def closure(wanted: str) -> set[str]:
    """The names of all distributions that a requirement brings, its own among them.

    Raises:
        PackageNotFoundError: one of them is not in the environment that runs the tests.
    """
    seen: set[tuple[str, str]] = set()
    _follow(Requirement(wanted), seen)
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
    optional = [f'{line}; extra == "{extra}"' for extra in OPTIONAL for line in OPTIONAL[extra]]
    return [Requirement(line) for line in PROJECT["project"]["dependencies"] + optional]
