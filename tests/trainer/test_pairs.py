"""Where pairs are found, in which order they are, and which of them are held out."""

import csv
import io
import json
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from pipelines.config.recipe import Recipe
from shards import ledger, schema
from shards.images import open_image
from shards.ledger import current, part_files
from trainer.pairs import PAIR, PairsError, read_image, read_pairs, resembles, split


def picture(number: int, shape: str = "PNG") -> bytes:
    """A picture of its own for each number: a dozen rectangles."""
    image, random = Image.new("RGB", (96, 64), "white"), np.random.default_rng(number)
    for _ in range(12):
        left, top = random.integers(0, 80), random.integers(0, 50)
        box = (left, top, left + random.integers(4, 40), top + random.integers(4, 30))
        ImageDraw.Draw(image).rectangle([*map(int, box)], tuple(random.integers(0, 255, 3)))
    out = io.BytesIO()
    image.save(out, shape)
    return out.getvalue()


def table(folder: Path, rows: list[tuple[int, str, str]]) -> Path:
    """A table of pictures by their number, with captions and sources."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in {number for number, _, _ in rows}:
        (folder / f"{number}.png").write_bytes(picture(number))
    named = [{"file": f"{n}.png", "caption": text, "source": source} for n, text, source in rows]
    pq.write_table(pa.Table.from_pylist(named), folder / "pairs.parquet")
    return folder / "pairs.parquet"


def webdataset(place: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(place, "w") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return place


def captions(pairs: pa.Table) -> dict[str, str]:
    return dict(zip(pairs["caption"].to_pylist(), pairs["source"].to_pylist(), strict=True))


# Reading


def test_a_table_s_paths_begin_at_its_folder_and_its_pairs_have_an_order_of_their_own(
    tmp_path: Path,
) -> None:
    rows = [(number, f"picture {number}", "a") for number in range(8)]
    one = read_pairs([str(table(tmp_path / "one", rows))])
    assert one.pairs.schema.equals(PAIR)
    for pair in one.pairs.to_pylist():
        assert read_image(pair) == picture(int(pair["caption"].split()[1]))
    parts = [str(table(tmp_path / "b", rows[5:])), str(table(tmp_path / "a", rows[:5]))]
    columns = ["caption", "source", "sha256", "phash"]
    assert read_pairs(parts).pairs.select(columns).equals(one.pairs.select(columns))


def test_what_is_no_pair_is_left_out_and_counted(tmp_path: Path) -> None:
    file = table(tmp_path, [(1, "one", "a"), (1, "one", "b"), (2, " ", "a"), (3, "three", "a")])
    (tmp_path / "3.png").write_bytes(picture(3)[:200])
    found = read_pairs([str(file)])
    assert captions(found.pairs) == {"one": "a"}
    assert found.left_out == {"image_not_decodable": 1, "no_caption": 1, "repeated_pair": 1}
    (tmp_path / "1.png").unlink()
    with pytest.raises(PairsError, match=r"no pairs; left out: 2 image_missing, 1 image_not_dec"):
        read_pairs([str(file)])


@pytest.mark.parametrize(("suffix", "delimiter"), [(".csv", ","), (".tsv", "\t")])
def test_tables_of_text(suffix: str, delimiter: str, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(1))
    file = tmp_path / f"pairs{suffix}"
    with file.open("w", newline="") as out:
        csv.writer(out, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL).writerows(
            [("path", "text"), ("a.png", "A cat, asleep")]
        )
    assert captions(read_pairs([str(file)]).pairs) == {"A cat, asleep": tmp_path.name}


def test_a_table_without_the_columns_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"file": ["a.png"], "title": ["x"]}), tmp_path / "t.parquet")
    with pytest.raises(PairsError, match=r"t.parquet: no column of captions \(caption, text, alt"):
        read_pairs([str(tmp_path / "t.parquet")])


def test_tars_of_img2dataset(tmp_path: Path) -> None:
    """Key.jpg, key.txt and key.json; a caption may be in the .json alone."""
    facts = {"caption": "two", "source": "cc12m", "url": "http://a.example/2.jpg"}
    members = {
        "000000000.jpg": picture(1, "JPEG"),
        "000000000.json": b"{}",
        "000000000.txt": b"one\n",
        "000000001.json": json.dumps(facts).encode(),
        "000000001.jpg": picture(2, "JPEG"),
        "000000002.txt": b"no picture",
    }
    tar = webdataset(tmp_path / "00000.tar", members)
    for place in (tar, tmp_path):
        found = read_pairs([str(place)])
        assert captions(found.pairs) == {"one": tmp_path.name, "two": "cc12m"}
    by_caption = {pair["caption"]: pair for pair in found.pairs.to_pylist()}
    assert read_image(by_caption["two"]) == members["000000001.jpg"]


def test_a_tar_that_is_cut_short_or_a_place_of_no_kind_is_refused(tmp_path: Path) -> None:
    tar = webdataset(tmp_path / "0.tar", {"a.jpg": picture(1), "a.txt": b"one"})
    tar.write_bytes(tar.read_bytes()[:900])
    with pytest.raises(PairsError, match=r"0\.tar: no whole, uncompressed tar"):
        read_pairs([str(tmp_path)])
    with pytest.raises(PairsError, match="nowhere: neither a run, nor shards"):
        read_pairs(["nowhere"])


def test_the_pairs_of_a_run_are_what_its_last_step_kept(small_run: Recipe) -> None:
    """The mixed shards of the run have the same ones, but for those that the mixture left over."""
    names = [n for n in ledger.stage_folders(small_run.out) if n[0].startswith("captions/")]
    kept = pa.concat_tables([pq.read_table(file) for file in part_files(names[-1][1], "documents")])
    found = read_pairs([str(small_run.out)])
    assert Counter(found.pairs["caption"].to_pylist()) == Counter(schema.texts(kept))
    for pair in found.pairs.slice(0, 5).to_pylist():
        open_image(read_image(pair)).load()
    mixed = read_pairs([str(current(small_run.out / "shards"))]).pairs
    assert mixed.num_rows > 0
    assert set(mixed["caption"].to_pylist()) <= set(found.pairs["caption"].to_pylist())
    assert set(mixed["source"].to_pylist()) == set(found.pairs["source"].to_pylist())


# Holding out


def many(count: int, source: str = "a") -> list[tuple[int, str, str]]:
    return [(number, f"picture {number}", source) for number in range(count)]


def test_a_tenth_of_the_pictures_is_held_out_whatever_else_there_is(tmp_path: Path) -> None:
    few = split(read_pairs([str(table(tmp_path / "few", many(40)))]).pairs)
    assert (few.train.num_rows, few.held_out.num_rows, few.lookalikes) == (36, 4, 0)
    assert not set(few.train["sha256"].to_pylist()) & set(few.held_out["sha256"].to_pylist())
    again = split(read_pairs([str(table(tmp_path / "again", many(40)[::-1]))]).pairs)
    assert again.sha256() == few.sha256()


def test_a_held_out_picture_has_no_copy_among_those_trained_on(tmp_path: Path) -> None:
    """Neither with another caption nor in another size, and it is measured on once."""
    rows = [*many(6), (6, "six", "test"), (6, "half a dozen", "test"), (6, "again", "a")]
    file = table(tmp_path, [*rows, (7, "smaller", "a"), (8, "eight", "test")])
    small = Image.open(io.BytesIO(picture(6))).resize((60, 40))
    small.save(tmp_path / "7.png")
    pairs = split(read_pairs([str(file)]).pairs, ["test"])
    assert set(pairs.train["caption"].to_pylist()) == {f"picture {n}" for n in range(6)}
    assert pairs.held_out.num_rows == 2
    assert pairs.lookalikes == 2


def test_a_source_is_held_out_by_a_part_of_its_name(tmp_path: Path) -> None:
    file = table(tmp_path, [*many(4, "deb:stamps 2022"), (5, "five", "web"), (6, "six", "web")])
    found = read_pairs([str(file)]).pairs
    assert split(found, ["stamps"]).held_out.num_rows == 4
    with pytest.raises(PairsError, match=r"--held-out emoji: no such source; .* deb:stamps 2022"):
        split(found, ["emoji"])
    with pytest.raises(PairsError, match="0 pairs to train on and 6 held out of 6: too few"):
        split(found, ["stamps", "web"])


hashes = st.lists(st.integers(0, 2**64 - 1), max_size=6)


@given(hashes, hashes, st.integers(0, 40))
def test_hashes_resemble_each_other_by_the_bits_that_differ(
    mine: list[int], others: list[int], most: int
) -> None:
    expected = [any((a ^ b).bit_count() <= most for b in others) for a in mine]
    found = resembles(np.array(mine, np.uint64), np.array(others, np.uint64), most)
    assert found.tolist() == expected
