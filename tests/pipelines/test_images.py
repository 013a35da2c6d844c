"""What happens to the pictures of documents: taken out, looked up, filtered, downloaded."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.rules import FilterSpec
from pipelines.images import (
    drop_images,
    image_filter_stage,
    image_rows,
    set_scores,
)
from pipelines.stage import image_count
from shards import ledger, schema
from shards.storage import read_table, write_table
from tests.pipelines.by_hand import kept, run_stage, source, write_stage

text = schema.text_part


def image(name: str, sha256: str | None = None) -> dict[str, Any]:
    return schema.image_part(f"http://a.example/{name}.png", f"alt of {name}", sha256)


def pages(*documents: list[dict[str, Any]]) -> pa.Table:
    return schema.documents(
        schema.document("web", f"http://a.example/{i}", parts) for i, parts in enumerate(documents)
    )


part = st.one_of(
    st.just(text("words")), st.sampled_from(["0", "1", "2"]).map(lambda name: image(name))
)
some_pages = st.lists(st.lists(part, max_size=5), max_size=5)
some_reasons = st.lists(st.sampled_from([None, "a", "b"]), min_size=25, max_size=25)


@given(some_pages, some_reasons)
def test_every_image_and_document_is_kept_or_has_a_row(
    documents: list[list[dict[str, Any]]], reasons: list[str | None]
):
    table = pages(*documents)
    flat = [part for parts in documents for part in parts]
    due = [r if p["text"] is None else None for p, r in zip(flat, reasons, strict=False)]
    left, drops = drop_images(table, due, [r and f"{r}!" for r in due])
    ledger.count(
        {"document": table.num_rows, "image": image_count(table)},
        {"document": left.num_rows, "image": image_count(left)},
        drops,
    ).check("here")
    assert left.schema.equals(schema.DOCUMENT)

    verdicts, lost = iter(due), 0
    expected, gone = [], {}
    for row, parts in zip(table.to_pylist(), documents, strict=True):
        mine = [next(verdicts) for _ in parts]
        lost += sum(r is not None for r in mine)
        rest = [p for p, r in zip(row["parts"], mine, strict=True) if r is None]
        pictures = [r for p, r in zip(parts, mine, strict=True) if p["text"] is None]
        if pictures and None not in pictures:
            gone[row["id"]] = pictures[0] if len(pictures) == 1 else "no_images_left"
        else:
            expected.append(row | {"parts": rest})
    assert left.to_pylist() == expected
    dropped = drops.filter(pc.equal(drops["unit"], "document")).to_pylist()
    assert {row["id"]: row["reason"] for row in dropped} == gone
    assert drops.num_rows == lost + len(gone)


def test_a_document_goes_for_the_reason_of_its_only_image():
    table = pages([image("cat"), text("A cat.")])
    left, drops = drop_images(table, ["image_too_small", None], ["8x8 png", None])
    assert left.num_rows == 0
    picture, document = drops.to_pylist()
    assert picture == {
        "id": table["id"][0].as_py(),
        "unit": "image",
        "reason": "image_too_small",
        "kind": "dropped",
        "url": "http://a.example/cat.png",
        "detail": "8x8 png",
        "content": "alt of cat",
        "image": None,
    }
    assert (document["unit"], document["reason"]) == ("document", "image_too_small")
    assert (document["detail"], document["content"]) == ("8x8 png", "A cat.")


def test_a_document_that_loses_all_of_several_images_goes_for_that():
    table = pages([image("cat"), text("Pets."), image("dog")], [text("Prose.")])
    left, drops = drop_images(table, ["http_404", None, "image_too_small", None])
    assert left["url"].to_pylist() == ["http://a.example/1"]
    assert drops["unit"].to_pylist() == ["image", "image", "document"]
    assert drops["reason"].to_pylist() == ["http_404", "image_too_small", "no_images_left"]
    assert drops["detail"].to_pylist() == [None, None, None]


def test_a_document_stays_with_the_images_that_are_left():
    table = pages([image("cat"), text("Pets."), image("dog")])
    left, drops = drop_images(table, ["http_404", None, None])
    assert [p["url"] for p in left["parts"][0].as_py()] == [None, "http://a.example/dog.png"]
    assert drops["unit"].to_pylist() == ["image"]


def index(**sizes: tuple[int, int]) -> pa.Table:
    """Rows of the image store by name, of PNGs of these sizes."""
    rows = [
        {"url": f"http://a.example/{name}.png", "width": w, "height": h}
        | {"original_format": "png", "format": "jpeg"}
        | {"sha256": name}
        for name, (w, h) in sizes.items()
    ]
    return pa.Table.from_pylist(rows, schema=schema.IMAGE)


def test_image_parts_are_joined_with_the_store_by_url():
    table = pages([text("Pets."), image("dog"), image("cat")], [], [image("dog"), text("A dog.")])
    table = set_scores(table, [1, 2, 3], [0.5, 0.25, 0.125])
    where, rows = image_rows(table, index(cat=(10, 20), dog=(30, 40), cow=(1, 1)))
    assert where == [1, 2, 3]
    assert rows.schema.equals(schema.IMAGE_PART)
    assert rows["sha256"].to_pylist() == ["dog", "cat", "dog"]
    assert rows["width"].to_pylist() == [30, 10, 30]
    assert rows["alt"].to_pylist() == ["alt of dog", "alt of cat", "alt of dog"]
    assert rows["score"].to_pylist() == [0.5, 0.25, 0.125]


def test_documents_without_images_have_no_rows():
    where, rows = image_rows(pages([text("Prose.")], []), index(cat=(1, 1)))
    assert (where, rows.num_rows) == ([], 0)


def test_scores_are_put_where_they_belong():
    table = set_scores(pages([text("Pets."), image("cat")], [image("dog")]), [2], [0.1])
    scores = schema.flatten_parts(table)[1].field("score").to_pylist()
    assert scores == [None, None, pytest.approx(0.1)]


def test_the_first_filter_decides_and_the_ledger_has_what_it_measured(tmp_path: Path):
    table = pages([image("tiny"), image("wide"), image("good")], [image("unlike")], [image("both")])
    table = set_scores(table, range(5), [0.5, 0.5, 0.5, 0.03125, 0.0])
    sizes = {"tiny": (10, 20), "wide": (900, 100), "good": (200, 200), "unlike": (200, 200)}
    write_table(tmp_path / "got/index/part-00000.parquet", index(**sizes, both=(10, 400)))
    filters = [
        FilterSpec(name="image_side", thresholds={"min": 50}),
        FilterSpec(name="image_aspect"),
        FilterSpec(name="image_similarity", thresholds={"min": 0.1}),
    ]
    stage = image_filter_stage("web/keep", source("web/a"), source("web/b"), filters)
    place = run_stage(
        stage, tmp_path / "keep", [write_stage(tmp_path / "a", [table])], [tmp_path / "got"]
    )
    assert kept(place) == [[table["id"][0].as_py()]]
    rows = ledger.read_drops(place.out).select(["unit", "reason", "detail"]).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("image", "image_too_small", "10 < 50, 10x20 png, score 0.5000"),
        ("image", "image_too_elongated", "9 > 2, 900x100 png, score 0.5000"),
        ("image", "image_low_similarity", "0.03125 < 0.1, 200x200 png, score 0.0312"),
        ("image", "image_too_small", "10 < 50, 10x400 png, score 0.0000"),
        ("document", "image_low_similarity", "0.03125 < 0.1, 200x200 png, score 0.0312"),
        ("document", "image_too_small", "10 < 50, 10x400 png, score 0.0000"),
    ]
    assert ledger.read_counts(place.out).read == {"document": 3, "image": 5}
    measures = read_table(place.out / "measures" / "part-00000.parquet")
    assert measures["id"].to_pylist() == np.repeat(table["id"], [3, 1, 1]).tolist()
    assert measures["image"].to_pylist() == [0, 1, 2, 0, 0]
    assert measures["image_too_small"].to_pylist() == [10, 100, 200, 200, 10]
    assert measures["image_too_elongated"].to_pylist() == [2, 9, 1, 1, 40], "of dropped ones too"


def test_an_unscored_image_is_described_by_its_size_alone_and_a_part_may_be_empty(tmp_path: Path):
    for part in ("part-00000", "part-00001"):
        write_table(tmp_path / "got" / "index" / f"{part}.parquet", index(tiny=(8, 8)))
    inputs = [write_stage(tmp_path / "a", [pages([image("tiny")]), pages()])]
    filters = [FilterSpec(name="image_side")]
    stage = image_filter_stage("web/keep", source("web/a"), source("web/b"), filters)
    place = run_stage(stage, tmp_path / "keep", inputs, [tmp_path / "got"])
    assert ledger.read_drops(place.out)["detail"].to_pylist() == ["8 < 150, 8x8 png"] * 2
