"""The stage that downloads: every image once for all documents, every failure a row."""

import re
from pathlib import Path

import pyarrow as pa

from pipelines.config import Download
from pipelines.fetching import fetch
from pipelines.fetching.download import download_stage
from pipelines.images import read_index
from shards import ledger, schema
from shards.images import read_images
from tests.pipelines.by_hand import run_stage, source, write_stage
from tests.pipelines.fetching.web import Web, respond, serving
from tests.pipelines.small import SAMPLE

FOLDER = SAMPLE / "www" / "pictures.mixwright.example" / "noto"
PICTURES = sorted(FOLDER.glob("*.png"))


def pages(*documents: list[dict[str, object]]) -> pa.Table:
    return schema.documents(
        schema.document("web", f"http://a.example/{i}", parts) for i, parts in enumerate(documents)
    )


def options(web: Web, **changed: object) -> Download:
    route = {"*.test": f"127.0.0.1:{web.port}"}
    return Download(connect_to=route, per_host_rate=500, resize=None, **changed)


def image(path: str) -> dict[str, object]:
    return schema.image_part(f"http://pictures.test{path}")


def test_an_image_is_fetched_once_for_all_parts_and_a_missing_one_has_its_reason(tmp_path: Path):
    good, missing, odd = image("/good"), image("/none"), schema.image_part("not a url")
    body = PICTURES[0].read_bytes()
    parts = [
        pages([good, missing], [missing]),
        pages([schema.text_part("A"), good], [odd, good]),
        pages(),
    ]
    inputs = [write_stage(tmp_path / "a", parts)]
    with serving() as web:
        web.answers["/good"] = respond(200, body)
        stage = download_stage("web/download", source("web/a"), options(web))
        place = run_stage(stage, tmp_path / "download", inputs)
    assert sorted(web.paths()) == ["/good", "/none", "/robots.txt"]
    assert ledger.read_counts(place.out).dropped == {
        "document": {"http_404": 1},
        "image": {"bad_url": 1, "http_404": 2},
    }
    found = [read_index(place.out, part).to_pylist() for part in (0, 1, 2)]
    assert [[row["reason"] for row in rows] for rows in found] == [
        [None, "http_404"],
        [None, "bad_url"],
        [],  # a part of which nothing is left
    ]
    assert found[0][0] == found[1][0]
    row = pa.Table.from_pylist(found[0][:1], schema=schema.IMAGE)
    assert read_images(place.out, row) == [body]


def test_parts_get_their_rows_from_every_batch_of_a_partition(tmp_path: Path):
    paths = [f"/{k}" for k in range(30)]
    parts = [pages(*[[image(path)] for path in paths[k::3]]) for k in range(3)]
    inputs = [write_stage(tmp_path / "a", parts)]
    with serving() as web:
        for k, path in enumerate(paths[:25]):
            web.answers[path] = respond(200, PICTURES[k].read_bytes())
        chosen = options(web, tar_urls=4, partitions=1)
        stage = download_stage("web/download", source("web/a"), chosen)
        place = run_stage(stage, tmp_path / "download", inputs)
    assert len([*(place.out / "store").glob("*.parquet")]) == 8
    for part, table in enumerate(parts):
        index = read_index(place.out, part)
        wanted = [row["parts"][0]["url"] for row in table.to_pylist()]
        assert index["url"].to_pylist() == sorted(wanted)
        held = index.filter(index["tar"].is_valid())
        numbers = [int(url.rpartition("/")[2]) for url in held["url"].to_pylist()]
        assert read_images(place.out, held) == [PICTURES[k].read_bytes() for k in numbers]
    assert ledger.read_counts(place.out).dropped["image"] == {"http_404": 5}


# --- the guide

GUIDE = (Path(__file__).parents[3] / "docs" / "images.md").read_text()


def test_the_guide_has_every_reason_and_whether_it_may_pass():
    told = {
        name: row[2].strip() == "yes"
        for row in (
            line.split("|") for line in GUIDE.splitlines() if re.search(r"\| (yes|no) \|", line)
        )
        for name in re.findall("`([a-z0-9_]+)`", row[1])
    }
    reasons = {
        value for name, value in vars(fetch).items() if name.isupper() and isinstance(value, str)
    }
    assert reasons - {*told} == set()
    assert {name for name, passes in told.items() if passes} == fetch.TEMPORARY


def test_the_guide_has_every_option_and_its_default():
    section = GUIDE.partition("## Downloading")[2].partition("### Manners")[0]
    told = dict(re.findall(r"^\| `([a-z_]+)` \|([^|]*)\|", section, re.M))
    assert told.keys() == Download.model_fields.keys()
    for name, field in Download.model_fields.items():
        if isinstance(field.default, (int, float)) and name != "tar_bytes":
            assert told[name].strip("` ") == f"{field.default}".removesuffix(".0").lower(), name
