from pathlib import Path

import pytest
import yaml

from configs.reading import ConfigError
from pipelines.config.recipe import load_recipe

CONFIGS = Path(__file__).parent.parent.parent / "configs"


def recipe(tmp_path: Path, **changes: object) -> Path:
    tree = {
        "name": "x",
        "out": "runs/x",
        "corpora": {"captions": {"read": {"files": ["a.parquet"]}}},
        "mix": {"weights": {"captions": 1}},
    }
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump(tree | changes))
    return path


def captions(**keys: object) -> dict[str, object]:
    return {"captions": {"read": {"files": ["a.parquet"]}} | keys}


@pytest.mark.parametrize("name", ["demo.yaml", "mm1.yaml"])
def test_the_recipes_that_come_with_it_are_valid(name: str):
    assert load_recipe(CONFIGS / name).mix.weights == {
        "interleaved": 45,
        "captions": 45,
        "text": 10,
    }


def test_mm1_has_the_published_values():
    mix = load_recipe(CONFIGS / "mm1.yaml").mix
    assert (mix.seq_len, mix.image_tokens, mix.max_images) == (4096, 144, 16)


def test_set_changes_a_key_and_reads_its_value_as_yaml(tmp_path: Path):
    changed = load_recipe(
        recipe(tmp_path), ["mix.seq_len=2048", "download.resize={shorter_side: 512}"]
    )
    assert changed.mix.seq_len == 2048
    assert changed.download.resize is not None
    assert changed.download.resize.shorter_side == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": 1}, r"x.yaml: sede: unknown key; allowed: name, storage, out, seed"),
        (
            {"corpora": captions(steps=["download", {"clip": {"modle": "x"}}])},
            r"corpora.captions.steps.1.clip.0.modle: unknown key; allowed: model, pretrained",
        ),
        ({"seed": "many"}, r"seed: .*valid integer.*found 'many'"),
        ({"mix": {"weights": {"captions": 0}}}, r"mix.weights.captions: .*greater than 0"),
        ({"mix": {"weights": {"text": 1}}}, r"mix.weights names text, but corpora does not"),
        (
            {"mix": {"weights": {"captions": 1}, "seq_len": 100}},
            r"image_tokens = 144 does not fit into seq_len = 100",
        ),
        (
            {"corpora": captions(steps=[{"filter": ["caption_wrods"]}])},
            r"unknown filter 'caption_wrods'; allowed: .*caption_words",
        ),
        (
            {"corpora": captions(steps=[{"filter": [{"caption_words": {"minimum": 2}}]}])},
            r"caption_words has no threshold 'minimum'; allowed: min, max",
        ),
        (
            {"corpora": captions(steps=[{"filter_images": [{"image_side": {"min": "big"}}]}])},
            r"image_side.min = 'big' is not int \| None",
        ),
        (
            {"corpora": captions(steps=[{"filter_images": ["gopher_quality"]}])},
            r"unknown filter 'gopher_quality'; allowed: .*image_side",
        ),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(
    tmp_path: Path, changes: dict[str, object], message: str
):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe(tmp_path, **changes))


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (["clip"], "the step clip needs a step download before it"),
        ([{"filter_images": []}, "download"], "the step filter_images needs a step download"),
        (
            ["download", {"filter_images": ["image_similarity"]}, "clip"],
            "the filter image_similarity needs a step clip before it",
        ),
        (
            ["download", {"filter_images": [{"image_nsfw": {"max": 0.5}}]}, "nsfw"],
            "the filter image_nsfw needs a step nsfw before it",
        ),
        (["language"], "there is no step download, and so no picture"),
        (["download", "download"], "more than one step download"),
        (["dwonload"], "steps.0.dwonload: unknown key; allowed: language, lines"),
        (["download", {"clip": [{}, {"model": "RN50"}]}], "two models are called similarity"),
        (
            ["download", {"clip": [{"embeddings": True}, {"name": "b", "embeddings": True}]}],
            "embeddings can be kept of one model",
        ),
        (["download", {"clip": {"name": "Not A Name"}}], "clip.0.name: .*should match pattern"),
        (
            ["download", "clip", {"select": {"by": "dfn", "fraction": 0.3}}],
            "the step select needs a step before it that gives the score dfn; "
            "those before it give: similarity",
        ),
        (
            [{"filter": [{"scored": {"name": "quality"}}]}, "quality"],
            "the filter scored needs a step before it that gives the score quality; "
            "those before it give: none",
        ),
        (["quality", {"select": {"by": "quality", "fraction": 0}}], "fraction: .*greater than 0"),
        ([{"clip": {}, "download": {}}], "a step has exactly one key of"),
    ],
)
def test_steps_stand_behind_what_they_need(tmp_path: Path, steps: list[object], message: str):
    with pytest.raises(ConfigError, match=message):
        load_recipe(recipe(tmp_path, corpora=captions(steps=steps)))


def test_sources_of_captions(tmp_path: Path):
    one = {"files": ["a.csv"], "source": "web", "weight": 93}
    two = {"files": ["b.csv"], "synthetic": {"text": "recaption", "source": "vecap", "weight": 7}}
    read = [one, two | {"source": "alt", "weight": 9}]
    made = load_recipe(recipe(tmp_path, corpora=captions(read=read))).corpora.captions
    assert made is not None and made.sources == {"web": 93, "alt": 9, "vecap": 7}
    for wrong, message in [
        ([one, one], "two sources have one name"),
        ([one, {"files": ["b.csv"]}], "give all sources a weight, or none"),
        ([], "at least 1 item"),
    ]:
        with pytest.raises(ConfigError, match=message):
            load_recipe(recipe(tmp_path, corpora=captions(read=wrong)))


def test_text_has_no_pictures(tmp_path: Path):
    corpora = {"text": {"read": {"files": ["a.jsonl"]}, "steps": ["download"]}}
    with pytest.raises(ConfigError, match="text has no pictures to download"):
        load_recipe(recipe(tmp_path, corpora=corpora, mix={"weights": {"text": 1}}))


def test_set_finds_steps_and_filters_by_name(tmp_path: Path):
    one, two = {"filter_images": ["image_side"]}, {"filter_images": [{"image_side": {"max": 9}}]}
    path = recipe(tmp_path, corpora=captions(steps=["download", one, "clip", two]))
    steps = "corpora.captions.steps"
    asked = [
        f"{steps}.clip.model=RN50",
        f"{steps}.filter_images.image_side.min=7",
        f"{steps}.filter_images-2=[image_url]",
    ]
    _, first, clip, second = load_recipe(path, asked).corpora.captions.steps
    assert [each.model for each in clip.options] == ["RN50"]
    assert [(spec.name, spec.thresholds) for spec in first.options] == [("image_side", {"min": 7})]
    assert [spec.name for spec in second.options] == ["image_url"]
    for name in ("filter_images-3", "filter_images-x", "mask"):
        with pytest.raises(ConfigError, match=f"no {name} in the list; there are download, filter"):
            load_recipe(path, [f"{steps}.{name}=[]"])


def test_all_mistakes_are_named_at_once(tmp_path: Path):
    with pytest.raises(ConfigError) as caught:
        load_recipe(recipe(tmp_path, seed="x", colour="red"))
    assert len(str(caught.value).splitlines()) == 2


def test_a_file_that_is_no_recipe(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"nowhere.yaml: cannot be read"):
        load_recipe(tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="mapping of keys, found list"):
        load_recipe(tmp_path / "list.yaml")
    with pytest.raises(ConfigError, match="key=value"):
        load_recipe(recipe(tmp_path), ["seed"])
