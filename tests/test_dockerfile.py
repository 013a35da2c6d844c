"""The worker image, as far as it can be checked without building it."""

import re
import shlex
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LINES = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()


def instructions(name: str) -> list[list[str]]:
    """The words after each instruction of a name; lines that are continued are one."""
    text = "\n".join(line for line in LINES if not line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line)[1:] for line in lines if line.startswith(f"{name} ")]


def pinned(package: str) -> str:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    (version,) = re.findall(rf"^{package}==([\w.]+)", text, re.MULTILINE)
    return version


def context() -> set[str]:
    """What .dockerignore lets through, of the top folder."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in lines
    return {line[1:] for line in lines if line.startswith("!")}


def test_workers_have_the_versions_that_jobs_are_built_with() -> None:
    beam, python = (image[0] for image in instructions("FROM"))
    version = python.removeprefix("python:").removesuffix("-slim")
    assert beam == f"apache/beam_python{version}_sdk:{pinned('apache-beam')}"
    assert PROJECT["project"]["requires-python"].startswith(f">={version},")


def test_everything_that_is_installed_is_in_the_context() -> None:
    project = PROJECT["project"]
    folders = {package.split(".")[0] for package in PROJECT["tool"]["setuptools"]["packages"]}
    licences = {file for file in project["license-files"] if "/" not in file}
    installed = folders | licences | {project["readme"], "pyproject.toml", "requirements.txt"}
    assert context() == installed


def test_everything_that_is_copied_is_there() -> None:
    copies = [words for words in instructions("COPY") if not words[0].startswith("--from")]
    sources = {source for *sources, _ in copies for source in sources}
    assert sources == {"requirements.txt", "."}
    assert all((ROOT / name).exists() for name in sources | context())


def test_packages_are_installed_by_hash() -> None:
    hashed, project = (words for words in instructions("RUN") if words[:2] == ["pip", "install"])
    assert "--require-hashes" in hashed
    assert {"--no-deps", "--no-build-isolation"} <= set(project)


def test_build_arguments_are_explained_and_used() -> None:
    for number, line in enumerate(LINES):
        if line.startswith("ARG "):
            name = line.split()[1].split("=")[0]
            assert LINES[number - 1].startswith("# ")
            assert any(f"${name}" in word for words in instructions("RUN") for word in words)


def test_a_worker_is_started_by_beam_and_not_as_root() -> None:
    assert instructions("ENTRYPOINT") == [["[/opt/apache/beam/boot]"]]
    assert ["--from=beam", "/opt/apache/beam", "/opt/apache/beam"] in instructions("COPY")
    (user,) = instructions("USER")
    assert user != ["root"]


def test_images_are_named_without_a_host() -> None:
    images = [image[0] for image in instructions("FROM")]
    assert all("." not in image.split("/")[0] for image in images if "/" in image)
