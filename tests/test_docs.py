"""What the pages in docs/ show is what the code takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from pydantic import BaseModel

from configs.reading import check, set_key
from configs.storage import S3, Gcs
from pipelines.cli import app
from pipelines.config.recipe import Recipe
from pipelines.config.runner import Cluster, Dataflow
from pipelines.engines.runners import pipeline_options

ROOT = Path(__file__).parent.parent
PAGES = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")}
# What a page's section of a recipe is tried in.
REST = {
    "name": "mine",
    "out": "runs/mine",
    "corpora": {"captions": {"read": {"files": ["urls.tsv"]}}},
    "mix": {"weights": {"captions": 1}},
}


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a language; those of a list's items are indented."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", PAGES[page], re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", body, flags=re.MULTILINE) for indent, body in found]


def commands(page: str) -> list[list[str]]:
    """The words of each command; lines that end with a backslash go on."""
    lines = "\n".join(blocks(page, "sh")).replace("\\\n", " ")
    open_quotes = re.sub(r"'[^']*'", lambda quoted: quoted[0].replace("\n", " "), lines)
    return [words for line in open_quotes.splitlines() if (words := shlex.split(line, True))]


SECTIONS = [(page, block) for page in sorted(PAGES) for block in blocks(page, "yaml")]
COMMANDS = [(page, words) for page in sorted(PAGES) for words in commands(page)]
OURS = [(page, words[1:]) for page, words in COMMANDS if words[0] == "mixwright"]


def keys(page: str, *path: str) -> set[str]:
    """The keys that a page's blocks show in one section."""
    found: set[str] = set()
    for block in blocks(page, "yaml"):
        tree = yaml.safe_load(block)
        for name in path:
            tree = tree.get(name, {})
        found |= tree.keys()
    return found


def test_there_is_a_page_for_each_engine_and_for_stores() -> None:
    assert {"spark.md", "flink.md", "dataflow.md", "s3.md", "running.md"} <= PAGES.keys()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [page for page in PAGES if f"(docs/{page})" not in readme] == []


@pytest.mark.parametrize(("page", "block"), SECTIONS)
def test_a_recipe_or_a_section_of_one_is_valid(page: str, block: str) -> None:
    section: dict[str, Any] = yaml.safe_load(block)
    recipe = check(Recipe, section if "name" in section else REST | section, page)
    assert pipeline_options(recipe).get_all_options()["job_name"].startswith("mixwright-")


@pytest.mark.parametrize(
    ("page", "path", "model"),
    [
        ("spark.md", ("runner", "spark"), Cluster),
        ("flink.md", ("runner", "flink"), Cluster),
        ("dataflow.md", ("runner", "dataflow"), Dataflow),
        ("s3.md", ("storage", "s3"), S3),
        ("s3.md", ("storage", "gcs"), Gcs),
    ],
)
def test_every_key_of_a_section_is_shown(
    page: str, path: tuple[str, ...], model: type[BaseModel]
) -> None:
    assert keys(page, *path) == set(model.model_fields)


@pytest.mark.parametrize(("page", "words"), OURS)
def test_our_commands_parse(page: str, words: list[str]) -> None:
    group: Any = typer.main.get_command(app)
    context = group.make_context("mixwright", [words[0]])
    command = group.get_command(context, words[0])
    parsed = command.make_context(words[0], words[1:], parent=context)  # raises UsageError
    check(Recipe, assigned(parsed.params.get("assignments") or []), page)


def assigned(assignments: list[str]) -> dict[str, Any]:
    """A recipe with all corpora, changed by --set."""
    tree = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text(encoding="utf-8"))
    for assignment in assignments:
        set_key(tree, assignment)
    return dict(tree)


@pytest.mark.parametrize(
    ("page", "words"), [case for case in COMMANDS if case[1][0] in ("make", "python")]
)
def test_what_other_commands_start_is_there(page: str, words: list[str]) -> None:
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif words[1] == "-m":
        __import__(words[2])
    else:
        assert (ROOT / words[1]).is_file()


@pytest.mark.parametrize("page", sorted(PAGES))
def test_links_lead_to_pages_and_headings(page: str) -> None:
    for target in re.findall(r"\]\((?!https:)([^)]+)\)", PAGES[page]):
        file, _, heading = target.partition("#")
        assert (ROOT / "docs" / file).is_file(), target
        titles = re.findall(r"^#+ (.*)$", PAGES.get(file or page, ""), re.MULTILINE)
        anchors = {re.sub(r"[^a-z0-9 -]", "", t.lower()).replace(" ", "-") for t in titles}
        assert not heading or heading in anchors, target


def test_environment_variables_are_ones_that_the_code_reads() -> None:
    readers = ("shards/stores/options.py", "benchmarks/extraction.py")
    code = "".join((ROOT / path).read_text(encoding="utf-8") for path in readers)
    named = {name for text in PAGES.values() for name in re.findall(r"MIXWRIGHT_[A-Z0-9_]+", text)}
    assert named and {name for name in named if name not in code} == set()
