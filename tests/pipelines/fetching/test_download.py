"""The stage that downloads: every image once for all documents, every failure a row."""

import hashlib
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.config.steps import Download, Resize
from pipelines.fetching import fetch
from pipelines.fetching.download import HASH_MISMATCH, download_stage
from pipelines.images import read_index
from shards import ledger, schema
from shards.images import read_images
from shards.ledger import part_files
from shards.storage import read_table
from tests.pipelines.by_hand import run_stage, source, write_stage
from tests.pipelines.fetching.web import Web, respond, serving
from tests.pipelines.small import SAMPLE

FOLDER = SAMPLE / "www" / "pictures.mixwright.example" / "noto"
PICTURES = sorted(FOLDER.glob("*.png"))
URL = "http://pictures.test/photo"
WHY = ["reason", "kind", "url", "detail"]


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


# --- pictures that changed since a list was made


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def md5(body: bytes) -> str:
    return hashlib.md5(body).hexdigest()


def test_each_document_has_its_own_expectation_of_the_bytes_at_a_url(tmp_path: Path):
    old, new = PICTURES[0].read_bytes(), PICTURES[1].read_bytes()
    hashes = [sha256(old), sha256(new), md5(old), md5(new), None]
    parts = [[schema.image_part(URL, expected_hash=each)] for each in hashes]
    inputs = [write_stage(tmp_path / "a", [pages(*parts[:2]), pages(*parts[2:])])]
    with serving() as web:
        web.answers["/photo"] = respond(200, new)
        stage = download_stage("web/download", source("web/a"), options(web))
        place = run_stage(stage, tmp_path / "download", inputs)
    assert sorted(web.paths()) == ["/photo", "/robots.txt"]
    left = pa.concat_tables(map(read_table, part_files(place.out, "documents")))
    assert left["parts"].to_pylist() == [[schema.image_part(URL, sha256=sha256(new))]] * 3
    assert left["url"].to_pylist() == [f"http://a.example/{n}" for n in (1, 1, 2)]
    drops = ledger.read_drops(place.out)
    assert drops.filter(pc.equal(drops["unit"], "document")).select(WHY).to_pylist() == [
        {
            "reason": "hash_mismatch",
            "kind": "dropped",
            "url": "http://a.example/0",
            "detail": f"expected {expected}, got {got}",
        }
        for expected, got in [
            (f"sha256 {sha256(old)}", sha256(new)),
            (f"md5 {md5(old)}", md5(new)),
        ]
    ]


def test_a_hash_is_that_of_the_bytes_that_came_and_not_of_what_is_stored(tmp_path: Path):
    body = PICTURES[0].read_bytes()
    part = schema.image_part(URL, expected_hash=sha256(body))
    inputs = [write_stage(tmp_path / "a", [pages([part])])]
    with serving() as web:
        web.answers["/photo"] = respond(200, body)
        chosen = options(web).model_copy(update={"resize": Resize(shorter_side=16)})
        stage = download_stage("web/download", source("web/a"), chosen)
        place = run_stage(stage, tmp_path / "download", inputs)
    assert read_images(place.out, read_index(place.out, 0)) != [body]
    assert ledger.read_counts(place.out).kept == {"document": 1, "image": 1}


def test_a_picture_that_did_not_come_has_its_own_reason(tmp_path: Path):
    parts = [schema.image_part(f"http://pictures.test/{n}", expected_hash="0" * 64) for n in (1, 2)]
    inputs = [write_stage(tmp_path / "a", [pages(parts)])]
    with serving() as web:
        web.answers["/1"] = respond(200, b"no picture")
        stage = download_stage("web/download", source("web/a"), options(web))
        place = run_stage(stage, tmp_path / "download", inputs)
    dropped = {"image_not_decodable": 1, "http_404": 1}
    assert ledger.read_counts(place.out).dropped["image"] == dropped


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
    } | {HASH_MISMATCH}
    assert reasons - {*told} == set()
    assert {name for name, passes in told.items() if passes} == fetch.TEMPORARY


def test_the_guide_has_every_option_and_its_default():
    section = GUIDE.partition("## Downloading")[2].partition("### Manners")[0]
    told = dict(re.findall(r"^\| `([a-z_]+)` \|([^|]*)\|", section, re.M))
    assert told.keys() == Download.model_fields.keys()
    for name, field in Download.model_fields.items():
        if isinstance(field.default, (int, float)) and name != "tar_bytes":
            assert told[name].strip("` ") == f"{field.default}".removesuffix(".0").lower(), name
