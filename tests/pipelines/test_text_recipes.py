"""The recipes for prose that come with the project are valid, and run on a few real pages."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from configs.reading import ConfigError
from pipelines.config.recipe import Recipe, load_recipe
from shards import ledger
from shards.loader import open_shards
from shards.verify import verify
from tests.pipelines.small import CONFIGS, SAMPLE, run_quietly

PAGES = SAMPLE / "www" / "prose.mixwright.example" / "freedombox-plain"
STEPS = {
    "text-fineweb": ["language", "filter", "lines", "filter", "dedupe", "mask"],
    "text-refinedweb": ["language", "filter", "lines", "filter", "dedupe", "passages", "dedupe"],
    "text-mm1": [
        "language",
        "filter",
        "flagged_words",
        "filter",
        "quality",
        "filter",
        "dedupe",
        "mask",
    ],
}


def recipe(name: str, out: Path) -> Recipe:
    """A recipe on some pages of the sample, in this process."""
    few = [f"corpora.text.read.files=[{PAGES}]", f"out={out}", "mix.seq_len=512"]
    here = ["runner.workers=1", "runner.options={direct_running_mode: in_memory}"]
    return load_recipe(CONFIGS / f"{name}.yaml", [*few, *here])


@pytest.mark.parametrize("name", STEPS)
def test_the_steps_are_in_the_papers_order(name: str, tmp_path: Path):
    text = recipe(name, tmp_path).corpora.text
    assert text is not None
    assert [step.kind for step in text.steps] == STEPS[name]


@pytest.mark.parametrize("name", STEPS)
def test_a_recipe_runs_from_pages_to_verified_shards(name: str, tmp_path: Path):
    made = recipe(name, tmp_path)
    ran = run_quietly(made)
    assert len(ran) > len(STEPS[name])
    counts = {stage: ledger.read_counts(ledger.current(made.out / stage)) for stage in ran}
    read, kept = counts["text/extract"].read, counts[ran[len(STEPS[name])]].kept
    assert read["document"] > kept["document"] > 0
    assert verify(made.out / "shards") == []
    assert len(open_shards(made.out / "shards")) > 0


def thresholds(name: str, filter_name: str) -> Mapping[str, Any]:
    tree = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    steps = tree["corpora"]["text"]["steps"]
    specs = [spec for step in steps if "filter" in step for spec in step["filter"]]
    return next(s[filter_name] for s in specs if isinstance(s, dict) and filter_name in s)


def test_published_thresholds_are_written_out(tmp_path: Path):
    assert thresholds("text-fineweb", "fineweb")["max_duplicate_line_characters"] == 0.01
    assert thresholds("text-refinedweb", "lines") == {"max_removed": 0.05}
    assert thresholds("text-mm1", "quality") == {"min": None}
    text = recipe("text-refinedweb", tmp_path).corpora.text
    assert text is not None
    near = text.steps[4].options.near
    assert (near.ngram, near.bands * near.rows) == (5, 9000)


def steps(*given: Any) -> list[str]:
    return ["corpora.text.steps=" + yaml.safe_dump(list(given), default_flow_style=True).strip()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["lines"], r"steps.0.lines.name: Field required"),
        ([{"lines": "c5"}], r"unknown filter 'c5'; allowed: c4, refinedweb"),
        ([{"lines": {"c4": {"min_wrods": 1}}}], r"c4 has no threshold 'min_wrods'; allowed: "),
        ([{"lines": {"c4": {"min_words": "x"}}}], r"c4.min_words = 'x' is not int \| None"),
        ([{"filter": ["quality"]}], r"the filter quality needs a step quality before it"),
        ([{"lines": "c4"}, {"filter": ["quality"]}], r"the filter quality needs a step quality"),
        (
            [{"filter": ["lines"]}, {"lines": "c4"}],
            r"the filter lines needs a step lines before it",
        ),
        ([{"filter": ["language"]}], r"the filter language needs a step language before it"),
        ([{"mask": {"name": True}}], r"mask.name: unknown key"),
        ([{"perplexity": {}}], r"perplexity.model"),
    ],
)
def test_a_step_that_is_wrong_is_named(given: list[Any], message: str):
    with pytest.raises(ConfigError, match=message):
        load_recipe(CONFIGS / "text-fineweb.yaml", steps(*given))
