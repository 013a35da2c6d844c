"""`mixwright run --retry-failed`: only what may have passed is asked again, and nothing is lost."""

import hashlib
from pathlib import Path

import pytest

from pipelines.cli import execute
from pipelines.config.recipe import Recipe
from shards import ledger
from shards.why import why
from tests.pipelines.fetching.captioned import PICTURES, captioned, output, stored
from tests.pipelines.fetching.web import Web, respond, serving

GOOD, BROKEN, BUSY, GONE, REFUSED = "/good", "/broken", "/busy", "/gone", "/refused"


def recipe(folder: Path, web: Web, **download: object) -> Recipe:
    rows = [
        f"http://a.test{path}\tA picture of {path}" for path in (GOOD, BROKEN, BUSY, GONE, REFUSED)
    ]
    if not (folder / "urls.tsv").exists():
        (folder / "urls.tsv").write_text("url\tcaption\n" + "\n".join(rows) + "\n")
    steps = ["download", {"filter_images": ["image_format"]}]
    return captioned(folder, web, steps, **{"resize": None, **download})


def run(made: Recipe, **options: bool) -> None:
    execute(made, "captions", **options)


def bodies(made: Recipe) -> dict[str, bytes]:
    return {path: body for path, (_, body) in stored(made).items()}


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, with one space between its columns."""
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def failing(tmp_path: Path):
    """A run on a web of which one URL is well, two are ill, and two will never give a picture."""
    with serving() as web:
        web.answers |= {
            GOOD: respond(200, PICTURES[0].read_bytes()),
            BROKEN: respond(500),
            BUSY: respond(429),
            REFUSED: respond(200, PICTURES[3].read_bytes(), ("X-Robots-Tag", "noai")),
        }
        made = recipe(tmp_path, web)
        run(made)
        web.asked.clear()
        yield web, made


def test_only_what_may_have_passed_is_asked_again(
    failing: tuple[Web, Recipe], capsys: pytest.CaptureFixture[str]
):
    web, made = failing
    web.answers[BROKEN] = respond(200, PICTURES[1].read_bytes())
    capsys.readouterr()
    run(made, retry_failed=True)
    assert sorted(web.paths()) == [BROKEN, BUSY, "/robots.txt"]
    assert bodies(made) == {GOOD: PICTURES[0].read_bytes(), BROKEN: PICTURES[1].read_bytes()}
    assert ledger.read_counts(output(made)).dropped["image"] == {
        "http_404": 1,
        "http_try_later": 1,
        "opt_out_header": 1,
    }
    said = lines(capsys)
    assert said[0] == "captions/download 2 failed images tried again, 1 won"
    assert said[1].startswith("captions/filter_images 2 → 2 ")

    run(made)
    assert "nothing to do" in capsys.readouterr().out
    web.answers[BUSY] = respond(200, PICTURES[2].read_bytes())
    web.asked.clear()
    run(made, retry_failed=True)
    assert sorted(web.paths()) == [BUSY, "/robots.txt"]
    assert len(stored(made)) == 3
    run(made, retry_failed=True)
    assert "no download failed for a reason that may have passed" in capsys.readouterr().out


def test_a_retry_that_wins_nothing_changes_nothing(
    failing: tuple[Web, Recipe], capsys: pytest.CaptureFixture[str]
):
    web, made = failing
    before, files = output(made), sorted(made.out.rglob("*.parquet"))
    capsys.readouterr()
    run(made, dry_run=True, retry_failed=True)
    assert [line for line in lines(capsys) if "run:" in line] == [
        "captions/download run: 2 images failed for reasons that may have passed"
    ]
    assert web.asked == []

    run(made, retry_failed=True)
    said = lines(capsys)
    assert said[0] == "captions/download 2 failed images tried again, 0 won"
    assert "nothing to do" in said[-1], "later stages are not run"
    assert output(made) == before
    assert sorted(made.out.rglob("*.parquet")) == files
    assert BROKEN in web.paths()


def test_a_picture_that_was_swapped_is_told_and_not_tried_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    meant, other = (picture.read_bytes() for picture in PICTURES[:2])
    expected = hashlib.sha256(meant).hexdigest()
    lines = [f"http://a.test{path}\tA picture\t{expected.upper()}" for path in (GOOD, BROKEN, GONE)]
    table = tmp_path / "urls.tsv"
    table.write_text("\n".join(["url\tcaption\tsha256", *lines]) + "\n")
    with serving() as web:
        web.answers |= {GOOD: respond(200, meant), BROKEN: respond(500), GONE: respond(200, other)}
        made = recipe(tmp_path, web)
        run(made)
        web.asked.clear()
        web.answers[BROKEN] = respond(200, other)
        run(made, retry_failed=True)
        assert sorted(web.paths()) == [BROKEN, "/robots.txt"]
        web.asked.clear()
        capsys.readouterr()
        run(made, retry_failed=True)
        assert "no download failed for a reason that may have passed" in capsys.readouterr().out
        assert web.asked == []
    counts = ledger.read_counts(output(made))
    assert counts.kept == {"document": 1, "image": 1}
    assert counts.dropped["document"] == {"hash_mismatch": 2}
    answer = why(made.out, f"http://a.test{GONE}")[1]
    told = f"expected sha256 {expected}, got {hashlib.sha256(other).hexdigest()}"
    assert (answer.stage, answer.outcome) == ("captions/download", "image dropped")
    assert (answer.reason, answer.detail) == ("hash_mismatch", told)


def test_a_retry_may_be_more_patient(failing: tuple[Web, Recipe], tmp_path: Path):
    web, _ = failing
    web.answers[BUSY] = respond(200, PICTURES[2].read_bytes())
    patient = recipe(tmp_path, web, total_seconds=60.0, retries=3)
    run(patient)
    assert web.asked == [], "patience alone is no reason to ask for everything again"
    run(patient, retry_failed=True)
    assert GOOD not in web.paths()
    assert len(stored(patient)) == 2
