"""What the README shows is what the code takes."""

import ast
import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipelines.cli import app
from pipelines.config.recipe import load_recipe

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_its_recipe_is_valid_and_so_are_its_sections_for_text_and_a_cluster(tmp_path: Path):
    recipe, text, section = blocks("yaml")
    path = tmp_path / "pairs.yaml"
    path.write_text(recipe)
    assert load_recipe(path).corpora.captions is not None
    rest = {"name": "prose", "out": "runs/prose", "mix": {"weights": {"text": 1}}}
    path.write_text(yaml.safe_dump(yaml.safe_load(text) | rest))
    assert load_recipe(path).corpora.text is not None
    path.write_text(yaml.safe_dump(yaml.safe_load(recipe) | yaml.safe_load(section)))
    assert load_recipe(path).runner.engine == "spark"


@pytest.mark.parametrize("code", blocks("python"))
def test_its_python_parses(code: str):
    ast.parse(code)


def test_its_commands_exist():
    lines = [line for block in blocks("console") for line in block.splitlines()]
    named = {m[1] for line in lines if (m := re.match(r"mixwright (\w+)", line))}
    assert {"run", "status", "inspect", "why", "verify", "report", "config"} <= named
    for command in named:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0, command


def test_its_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if not target.startswith("https://"):
            assert (Path(__file__).parent.parent / target).exists(), target
