"""A download whose input has changed asks for what is new; what it has is taken over."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.cli import execute
from pipelines.config.recipe import Recipe
from shards import ledger
from tests.pipelines.fetching.captioned import PICTURES, captioned, output, stored
from tests.pipelines.fetching.web import Web, respond, serving

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
    return captioned(folder, web, [*filters, "download"], **download)


def asked(web: Web, made: Recipe) -> list[str]:
    """The paths that a run asks for."""
    web.asked.clear()
    execute(made, "captions")
    return sorted(path for path in web.paths() if path != "/robots.txt")


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
    first = output(made)
    table(tmp_path, "b.tsv", PATHS[5:])  # more parts, and so more partitions
    web.answers[PATHS[5]] = web.answers[PATHS[0]]
    capsys.readouterr()
    execute(made, "captions", dry_run=True)
    assert "its inputs changed; what it has downloaded is kept" in capsys.readouterr().out

    assert asked(web, made) == sorted([BROKEN, *PATHS[5:]])
    assert not first.exists(), "the tars are another's now"
    assert stored(made).keys() == set(PATHS) - {BROKEN, GONE}
    anew = made.model_copy(update={"out": tmp_path / "anew"})
    assert asked(web, anew) == PATHS
    assert stored(anew) == stored(made)
    one, other = (ledger.read_counts(output(each)) for each in (made, anew))
    assert one == other
    assert one.dropped["image"] == {"http_404": 1, "http_5xx": 1}


def test_another_size_asks_for_everything(tmp_path: Path, web: Web) -> None:
    table(tmp_path, "a.tsv", PATHS[:3])
    asked(web, recipe(tmp_path, web))
    assert asked(web, recipe(tmp_path, web, resize={"shorter_side": 40})) == PATHS[:3]
