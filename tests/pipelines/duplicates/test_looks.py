"""Pictures that look alike: those of a plain loop over all pairs, in any parts and on real ones."""

import io
import json
import random
from itertools import chain, combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from configs.reading import ConfigError
from filters.looks import SCOPED, Limits, alike
from pipelines.config.corpora import Captions
from pipelines.config.steps import Dedupe, NearImage
from pipelines.duplicates import looks
from pipelines.duplicates.dedupe import dedupe_stage
from pipelines.stage import Place
from shards import ledger, schema
from shards.images import inspect_image, open_image
from shards.storage import write_table
from tests.pipelines.by_hand import kept, run_stage, source, write_stage
from tests.pipelines.small import SAMPLE

PICTURES = SAMPLE / "www"

seen = st.builds(
    lambda base, flips, tint, thumb, scope: (
        base ^ sum({1 << bit for bit in flips}),
        tint,
        0.0,
        thumb,
        scope,
    ),
    st.sampled_from([0x0123456789ABCDEF, 0xFEDCBA9876543210]),
    st.lists(st.integers(0, 63), max_size=6),
    st.sampled_from([0x8080808080808080, 0x9090909090909090, 0x9A9A9A9A9A9A9A9A]),
    st.sampled_from([bytes(range(256)), bytes(range(0, 256, 2)) * 2]),
    st.integers(1, 2),
)


def table_of(rows: list[tuple[Any, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) if rows else [[]] * len(SCOPED)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCOPED, strict=True)]
    return pa.table(arrays, schema=SCOPED)


def place(parts: int) -> Place:
    return Place("x", Path(), Path(), (), (), parts)


def found(rows: list[tuple[Any, ...]], cut: int, limits: Limits) -> set[tuple[int, int]]:
    """The pairs of rows that the partitions find when they come in two parts."""
    pieces: dict[int, list[pa.Table]] = {}
    for some in (np.arange(cut), np.arange(cut, len(rows))):
        mine = table_of([rows[i] for i in some])
        for number, table in looks.by_block(mine, some, place(5), limits.distance):
            pieces.setdefault(number, []).append(table)
    ends = [looks.pairs(pa.concat_tables(tables), limits) for tables in pieces.values()]
    every = [pair for low, high in ends for pair in zip(low.tolist(), high.tolist(), strict=True)]
    assert len(every) == len(set(every))  # no pair is found by two partitions
    return {(min(pair), max(pair)) for pair in every}


@given(st.lists(seen, max_size=20, unique=True), st.integers(0, 20), st.sampled_from([2, 5, 8]))
def test_pairs_are_those_of_a_plain_loop(rows: list[tuple[Any, ...]], cut: int, distance: int):
    limits, table = Limits(distance), table_of(rows)
    expected = {
        (i, j)
        for i, j in combinations(range(len(rows)), 2)
        if rows[i][-1] == rows[j][-1]
        and alike(table, np.array([i]), table, np.array([j]), limits)[0]
    }
    assert found(rows, min(cut, len(rows)), limits) == expected


def test_a_part_sends_a_look_once_and_no_look_never():
    rows = [(7, 1, 0.0, bytes(256), 0)] * 1000 + [(0, 1, 0.0, bytes(256), 0)] * 10
    pieces = looks.by_block(table_of(rows), np.arange(1010), place(5), 8)
    assert sum(table.num_rows for _, table in pieces) == 9
    assert {node for _, table in pieces for node in table["node"].to_pylist()} == {0}


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def variants(body: bytes) -> list[bytes]:
    picture = open_image(body)
    width, height = picture.size
    small = picture.resize((width * 3 // 4, height * 3 // 4))
    return [
        saved(picture, "JPEG", quality=40),
        saved(small, "WEBP", quality=80),
        saved(picture.crop((width // 60, height // 60, width, height)), "JPEG", quality=90),
    ]


def pair(name: str, score: float | None = None) -> dict[str, Any]:
    """A caption pair; the part's score is there if a step `clip` came before."""
    shown = schema.image_part(f"http://a.example/{name}", sha256=name) | {"score": score}
    return schema.document("captions", None, [shown, schema.text_part(f"The picture {name}.")])


def write_index(folder: Path, part: int, bodies: dict[str, bytes]) -> None:
    rows = [
        {"url": f"http://a.example/{name}", **inspect_image(body)} for name, body in bodies.items()
    ]
    table = pa.Table.from_pylist(rows, schema=schema.IMAGE)
    write_table(folder / "index" / f"{ledger.part_name(part)}.parquet", table)


def run(
    folder: Path, options: Dedupe, parts: list[list[dict[str, Any]]], bodies: dict[str, bytes]
) -> Place:
    inputs = [write_stage(folder / "a", [schema.documents(part) for part in parts])]
    for number, part in enumerate(parts):
        names = [row["parts"][0]["image"] for row in part]
        write_index(folder / "download", number, {name: bodies[name] for name in names})
    fetched = source("captions/download")
    stage = dedupe_stage("captions/dedupe", source("captions/a"), options, fetched=fetched)
    return run_stage(stage, folder / "dedupe", inputs, [folder / "download"])


@pytest.fixture(scope="module")
def bodies() -> dict[str, bytes]:
    """Nine pictures of the sample, three of them flat, and three variants of each photograph."""
    wallpapers = sorted((PICTURES / "stamps.mixwright.example" / "wallpapers").glob("*.jpg"))[:7]
    wallpapers = [path for path in wallpapers if "ripple" not in path.stem]
    emoji = sorted((PICTURES / "pictures.mixwright.example" / "noto").rglob("*.png"))[:3]
    found = {path.stem: path.read_bytes() for path in (*wallpapers, *emoji)}
    for path in wallpapers:
        made = variants(path.read_bytes())
        found |= {f"{path.stem}~{i}": body for i, body in enumerate(made)}
    return found


def original(name: str) -> str:
    return name.partition("~")[0]


def test_of_pictures_that_look_alike_the_best_pair_is_kept_in_any_parts(
    tmp_path: Path, bodies: dict[str, bytes]
):
    order = random.Random(1)
    names = sorted(bodies)
    scores = {name: order.random() for name in names}
    pairs = [pair(name, scores[name]) for name in names]
    best = {
        name: max((n for n in names if original(n) == original(name)), key=scores.get)
        for name in names
    }
    expected = {row["id"] for row, name in zip(pairs, names, strict=True) if best[name] == name}
    ids = {name: row["id"] for name, row in zip(names, pairs, strict=True)}
    for number, cuts in enumerate(([33], [5, 5, 20, 33])):
        parts = [pairs[a:b] for a, b in zip([0, *cuts], cuts, strict=False)]
        place = run(tmp_path / str(number), Dedupe(near_image=NearImage()), parts, bodies)
        assert set(chain(*kept(place))) == expected
        drops = ledger.read_drops(place.out).to_pylist()
        assert {row["reason"] for row in drops} == {"near_duplicate_image"}
        assert {(row["id"], row["detail"]) for row in drops} == {
            (ids[name], ids[best[name]]) for name in names if best[name] != name
        }
        order.shuffle(pairs)


def test_exact_copies_are_told_apart_from_near_ones(tmp_path: Path, bodies: dict[str, bytes]):
    """Without scores the longest caption is kept, then the smallest id."""
    name = next(name for name in sorted(bodies) if name.endswith("~0"))
    copy = pair(original(name))
    copy["parts"][1]["text"] += " A copy."
    copy["id"] = "copy"
    parts = [[pair(original(name)), copy], [pair(name)]]
    options = Dedupe(exact=["image"], near_image=NearImage())
    place = run(tmp_path, options, parts, bodies)
    assert kept(place) == [["copy"], []]
    drops = ledger.read_drops(place.out).to_pylist()
    assert sorted(row["reason"] for row in drops) == ["duplicate_image", "near_duplicate_image"]


@pytest.mark.parametrize("options", [{"exact": ["image"]}, {"near_image": {}}])
def test_there_are_no_looks_before_the_download(options: dict[str, Any]):
    steps = [{"dedupe": options}, "download"]
    with pytest.raises(ValidationError, match="image needs a step download before it"):
        Captions.model_validate({"read": {"files": ["x.parquet"]}, "steps": steps})
    Captions.model_validate({"read": {"files": ["x.parquet"]}, "steps": steps[::-1]})


def test_pictures_of_two_scopes_are_not_compared(tmp_path: Path, bodies: dict[str, bytes]):
    """As a synthetic caption beside the one of the web, which share their picture."""
    name = next(name for name in sorted(bodies) if name.endswith("~0"))
    pairs = [pair(original(name)), pair(name), pair(original(name)), pair(name)]
    for number, each in enumerate(pairs):
        each["id"], each["source"] = f"{number}", "web" if number < 2 else "synthetic"
    options = Dedupe(exact=["image"], near_image=NearImage(), scope="source")
    place = run(tmp_path, options, [pairs[:3], pairs[3:]], bodies)
    by_source = [row["source"] for row in pairs if row["id"] in set(chain(*kept(place)))]
    assert by_source == ["web", "synthetic"]


def test_what_another_run_has_kept_is_not_kept_again(tmp_path: Path, bodies: dict[str, bytes]):
    names = [name for name in sorted(bodies) if name.endswith("~0")][:2]
    first, options = tmp_path / "captions", Dedupe(near_image=NearImage())
    place = run(first, options, [[pair(original(names[0]))]], bodies)
    said = json.loads((place.out.parent / ledger.STAGE_FILE).read_text())
    about = said | {"pieces": {"config": options.model_dump()}}
    (place.out.parent / ledger.STAGE_FILE).write_text(json.dumps(about))
    again = Dedupe(near_image=NearImage(distance=6), against=[str(tmp_path)])
    other = run(tmp_path / "second", again, [[pair(names[0])], [pair(names[1])]], bodies)
    assert kept(other) == [[], [pair(names[1])["id"]]]
    (row,) = ledger.read_drops(other.out).to_pylist()
    assert row["detail"] == f"{pair(original(names[0]))['id']} of {tmp_path}"
    with pytest.raises(ConfigError, match="near_image"):
        dedupe_stage("captions/dedupe", source("x"), Dedupe(against=[str(tmp_path)]))
