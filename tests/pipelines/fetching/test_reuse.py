"""A download whose input has changed asks for what is new; what it has is taken over."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.cli import execute
from pipelines.config.recipe import Recipe, load_recipe
from pipelines.images import read_index
from shards import ledger
from shards.images import read_images
from tests.pipelines.fetching.web import Web, respond, serving
from tests.pipelines.small import SAMPLE

PICTURES = sorted((SAMPLE / "www" / "pictures.mixwright.example" / "noto").glob("*.png"))
PATHS = [f"/{name}" for name in "abcdefgh"]
BROKEN, GONE = PATHS[1], PATHS[2]  # a failure that may pass, and one that will not


@pytest.fixture
def web() -> Iterator[Web]:
    """A picture at each path, but for the two."""
    with serving() as web:
        for path, picture in zip(PATHS, PICTURES, strict=False):
            web.answers[path] = respond(200, picture.read_bytes())
        web.answers |= {BROKEN: respond(500), GONE: respond(404)}
        yield web


def table(folder: Path, name: str, paths: list[str]) -> None:
    rows = [f"http://{path[1:]}.test{path}\tA picture of {path[1:]} on a mat" for path in paths]
    (folder / name).write_text("\n".join(["url\tcaption", *rows]) + "\n")


def recipe(folder: Path, web: Web, *filters: object, **download: object) -> Recipe:
    tree = {
        "name": "reused",
        "out": str(folder / "run"),
        "corpora": {
            "captions": {
                "read": {"files": [str(folder / "*.tsv")], "rows_per_part": 2},
                "steps": [*filters, "download"],
            }
        },
        "download": {
            "connect_to": {"*.test": f"127.0.0.1:{web.port}"},
            "per_host_rate": 500,
            "retries": 0,
            **download,
        },
        "mix": {"weights": {"captions": 1}},
        "runner": {"workers": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    return load_recipe(folder / "recipe.yaml", [])


def asked(web: Web, made: Recipe) -> list[str]:
    """The paths that a run asks for."""
    web.asked.clear()
    execute(made, "captions")
    return sorted(path for path in web.paths() if path != "/robots.txt")


def stored(made: Recipe) -> dict[str, tuple[str, bytes]]:
    """The sha256 and the stored bytes of the picture at each path that has one."""
    output = ledger.current(made.out / "captions" / "download")
    found: dict[str, tuple[str, bytes]] = {}
    for part in range(ledger.part_count(output)):
        index = read_index(output, part)
        held = index.filter(index["tar"].is_valid())
        facts = zip(held["sha256"].to_pylist(), read_images(output, held), strict=True)
        found |= zip((url[-2:] for url in held["url"].to_pylist()), facts, strict=True)
    return found


def test_what_a_filter_drops_and_lets_in_again_is_not_asked_again(tmp_path: Path, web: Web) -> None:
    table(tmp_path, "a.tsv", PATHS[:5])
    made = recipe(tmp_path, web)
    assert asked(web, made) == PATHS[:5]
    before = stored(made)
    for least, expected in ((9, []), (10, []), (2, [BROKEN])):
        changed = recipe(tmp_path, web, {"filter": [{"caption_words": {"min": least}}]})
        assert asked(web, changed) == expected
        assert stored(changed) == (before if least == 2 else {})


def test_only_new_urls_and_passing_failures_are_asked(
    tmp_path: Path, web: Web, capsys: pytest.CaptureFixture[str]
) -> None:
    table(tmp_path, "a.tsv", PATHS[:5])
    made = recipe(tmp_path, web)
    asked(web, made)
    first = ledger.current(made.out / "captions" / "download")
    table(tmp_path, "b.tsv", PATHS[5:])  # more parts, and so more partitions
    web.answers[PATHS[5]] = web.answers[PATHS[0]]
    capsys.readouterr()
    execute(made, "captions", dry_run=True)
    assert "its inputs changed; what it has downloaded is kept" in capsys.readouterr().out

    assert asked(web, made) == sorted([BROKEN, *PATHS[5:]])
    assert isinstance(first, Path) and not first.exists(), "the tars are another's now"
    assert stored(made).keys() == set(PATHS) - {BROKEN, GONE}
    anew = made.model_copy(update={"out": tmp_path / "anew"})
    assert asked(web, anew) == PATHS
    assert stored(anew) == stored(made)
    one, other = (ledger.current(each.out / "captions" / "download") for each in (made, anew))
    assert ledger.read_counts(one) == ledger.read_counts(other)
    assert ledger.read_counts(one).dropped["image"] == {"http_404": 1, "http_5xx": 1}


def test_another_size_asks_for_everything(tmp_path: Path, web: Web) -> None:
    table(tmp_path, "a.tsv", PATHS[:3])
    asked(web, recipe(tmp_path, web))
    assert asked(web, recipe(tmp_path, web, resize={"shorter_side": 40})) == PATHS[:3]
