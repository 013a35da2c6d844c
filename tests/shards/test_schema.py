"""Documents, their ids, and how a stage takes their parts apart and puts them together again."""

import hashlib
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import schema

CAT = "http://a.example/cat.jpg"


def page(*parts: dict[str, Any], url: str = "http://a.example/", **about: Any) -> dict[str, Any]:
    return schema.document("web", url, parts, **about)


values = st.lists(st.text("ab\0", max_size=4), max_size=4)


@given(values, values)
def test_no_two_lists_of_values_share_a_digest(first: list[str], second: list[str]):
    """The alphabet is small, so that most lists here join to the same string as many others."""
    assert (schema.digest(*first) == schema.digest(*second)) == (first == second)


def test_a_digest_is_blake2b_of_each_value_after_its_length():
    data = (2).to_bytes(8, "little") + b"ab" + (1).to_bytes(8, "little") + b"c"
    assert schema.digest("ab", "c") == hashlib.blake2b(data, digest_size=16).hexdigest()
    assert schema.digest("ab", "c") != schema.digest("a", "bc")
    assert schema.digest("ü") == schema.digest("ü".encode())


def test_an_id_is_of_the_content_and_not_of_where_it_was_read():
    parts = [schema.text_part("A cat."), schema.image_part(CAT)]
    here = page(*parts, file="a.warc.gz", position=7)
    there = page(*parts, file="b.warc.gz", position=0, licence="CC0-1.0")
    assert here["id"] == there["id"]
    assert here["provenance"] == {"file": "a.warc.gz", "position": 7}


def test_an_id_changes_with_source_url_text_image_and_order():
    text, image = schema.text_part("A cat."), schema.image_part(CAT)
    different = [
        page(text, image),
        page(image, text),
        page(text),
        page(text, image, url="http://a.example/2"),
        page(schema.text_part("A dog."), image),
        page(text, schema.image_part(CAT + "?2")),
        schema.document("other", "http://a.example/", [text, image]),
    ]
    assert len({document["id"] for document in different}) == len(different)


def test_an_id_stays_when_the_image_has_been_downloaded():
    asked, fetched = schema.image_part(CAT, "alt"), schema.image_part(CAT, "alt", sha256="0" * 64)
    assert page(asked)["id"] == page(fetched)["id"]


def test_the_parts_of_all_documents_end_to_end():
    table = schema.documents(
        [
            page(schema.text_part("one"), schema.image_part(CAT)),
            page(),
            page(schema.text_part("two"), url="http://b.example/"),
        ]
    )
    parents, parts = schema.flatten_parts(table)
    assert parents.to_pylist() == [0, 0, 2]
    assert parts.field("text").to_pylist() == ["one", None, "two"]
    assert parts.field("url").to_pylist() == [None, CAT, None]


def test_texts_leave_images_out_and_join_with_newlines():
    table = schema.documents(
        [
            page(schema.text_part("one"), schema.image_part(CAT, "alt"), schema.text_part("two")),
            page(schema.image_part(CAT)),
            page(),
        ]
    )
    assert schema.texts(table) == ["one\ntwo", "", ""]


part = st.one_of(
    st.text(max_size=3).map(schema.text_part),
    st.builds(schema.image_part, st.just(CAT), st.none() | st.text(max_size=3)),
)
tables = st.lists(st.lists(part, max_size=4), max_size=6).map(
    lambda rows: schema.documents(page(*parts, url=f"{i}") for i, parts in enumerate(rows))
)


def cut(table: pa.Table, at: int, kind: str) -> pa.Table:
    """`table` or its end as Arrow may hold it after filters and reads."""
    if kind == "sliced":
        return table.slice(at)
    if kind == "chunked":
        return pa.concat_tables([table.slice(0, at), table.slice(at)])
    return table


@given(tables, st.integers(0, 6), st.sampled_from(["whole", "sliced", "chunked"]))
def test_one_field_of_every_part_is_replaced_and_nothing_else(table: pa.Table, at: int, kind: str):
    table = cut(table, at, kind)
    _, parts = schema.flatten_parts(table)
    scores = [float(i) for i in range(len(parts))]
    changed = schema.with_parts(table, "score", pa.array(scores, pa.float64()))
    assert changed.schema.equals(schema.DOCUMENT)
    numbers = iter(scores)
    expected = [
        row | {"parts": [part | {"score": next(numbers)} for part in row["parts"]]}
        for row in table.to_pylist()
    ]
    assert changed.to_pylist() == expected


@given(tables, st.integers(0, 6), st.sampled_from(["whole", "sliced", "chunked"]))
def test_parents_say_which_document_a_part_is_of(table: pa.Table, at: int, kind: str):
    table = cut(table, at, kind)
    parents, parts = schema.flatten_parts(table)
    rows = [row["parts"] for row in table.to_pylist()]
    assert parents.to_pylist() == [i for i, row in enumerate(rows) for _ in row]
    assert parts.to_pylist() == [part for row in rows for part in row]


def test_a_column_takes_the_type_that_the_schema_says():
    table = schema.documents([page(), page(url="http://b.example/")])
    named = schema.with_column(table, "language", ["en", None])
    assert named["language"].to_pylist() == ["en", None]
    assert named.schema.equals(schema.DOCUMENT)
    with pytest.raises(KeyError):
        schema.with_column(table, "colour", ["red", "blue"])
