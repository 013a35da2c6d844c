import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shards import storage, tar
from shards.verify import LIMIT, Problem, tokenizer_of, verify

FIRST = "mixwright-00000.tar"


def reasons(folder: Path, **options: Any) -> str:
    return "\n".join(f"{p.file} {p.position}: {p.what}" for p in verify(folder, **options))


def replace(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))


def change_manifest(folder: Path, **changes: Any) -> None:
    manifest = storage.read_json(folder / tar.MANIFEST)
    storage.write_json(folder / tar.MANIFEST, manifest | changes)


def rewrite(
    folder: Path,
    mixture: Any,
    write_manifest: Callable[..., None],
    change: Callable[[dict[str, Any]], None],
    position: int = 3,
    **settings: Any,
) -> None:
    """Writes all again, sound in every hash, with a changed row at `position`."""
    rows = json.loads(json.dumps(mixture.rows))
    change(rows[position])
    info = tar.write_shard(folder / FIRST, enumerate(rows), mixture.image_bytes)
    for number in (1, 2):
        (folder / f"mixwright-{number:05d}.tar").unlink()
    write_manifest(folder, [info], **settings)


def test_sound_shards_have_no_problem_and_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    assert verify(folder, progress=lambda done, total: told.append((done, total))) == []
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert verify(str(folder), images=False) == []


def test_no_manifest(tmp_path: Path) -> None:
    (problem,) = verify(tmp_path)
    assert problem.file == "manifest.json" and "is missing" in problem.what


def test_any_flipped_bit_of_a_tar_is_found(folder: Path) -> None:
    path = folder / FIRST
    sound = path.read_bytes()
    for place in range(0, len(sound), 997):
        data = bytearray(sound)
        data[place] ^= 1
        path.write_bytes(data)
        found = verify(folder)
        assert {problem.file for problem in found} == {FIRST}
        assert any("has sha256" in problem.what for problem in found)
    path.write_bytes(sound)
    assert verify(folder) == []


def test_a_flipped_byte_of_text_names_its_sequence(folder: Path) -> None:
    replace(folder / FIRST, b"Document 3.0", b"Documenx 3.0")
    found = reasons(folder)
    assert f"{FIRST} 3: says" in found and "tokens for 'Documenx 3.0" in found


def test_a_flipped_byte_of_a_picture_names_its_sequence(folder: Path, mixture: Any) -> None:
    (part,) = tar.image_parts(mixture.rows[3])
    data = mixture.pictures[part["sha256"]]
    replace(folder / FIRST, data, data[:-1] + b"x")
    assert f"{FIRST} 3: image 00.gif is not the original" in reasons(folder)
    assert "image" not in reasons(folder, images=False)
    change_manifest(folder, resized=True)
    assert "is not the original" not in reasons(folder)


@pytest.mark.parametrize("intact", [0, 60])  # no header; a header and spoilt pixels
def test_a_picture_that_does_not_decode(folder: Path, mixture: Any, intact: int) -> None:
    part = next(
        p for row in mixture.rows[:15] for p in tar.image_parts(row) if p["format"] == "png"
    )
    data = mixture.pictures[part["sha256"]]
    replace(folder / FIRST, data, data[:intact] + bytes(len(data) - intact))
    assert ".png cannot be decoded" in reasons(folder)


@pytest.mark.parametrize("cut", [1, 512, 10_000, 20_000])
def test_a_truncated_tar(folder: Path, cut: int) -> None:
    path = folder / "mixwright-00001.tar"
    size = path.stat().st_size
    os.truncate(path, size - cut)
    found = verify(folder)
    assert {problem.file for problem in found} == {path.name}
    assert f"has {size - cut} bytes, manifest.json says {size}" in reasons(folder)
    if cut == 20_000:
        assert Problem(path.name, 29, "has no member 000000029.json") in found


def test_a_deleted_tar_or_index(folder: Path) -> None:
    (folder / "mixwright-00001.tar").unlink()
    assert verify(folder) == [Problem("mixwright-00001.tar", None, "is missing")]
    (folder / "mixwright-00002.parquet").unlink()
    assert [problem.file for problem in verify(folder)] == [
        "mixwright-00001.tar",
        "mixwright-00002.parquet",
    ]


def test_swapped_shards(folder: Path) -> None:
    for suffix in ("tar", "parquet"):
        a, b = (folder / f"mixwright-0000{n}.{suffix}" for n in (0, 2))
        a.rename(folder / "aside")
        b.rename(a)
        (folder / "aside").rename(b)
    found = reasons(folder)
    for name, position, what in (
        ("00000", 30, "has 10 positions from [30], not 15 from [0]"),
        ("00002", 0, "has 15 positions from [0], not 10 from [30]"),
    ):
        assert f"mixwright-{name}.tar None: has sha256" in found
        assert f"mixwright-{name}.parquet None: has sha256" in found
        assert f"mixwright-{name}.tar {position}: {what}" in found


def test_swapped_lines_of_the_manifest_and_an_extra_tar(folder: Path) -> None:
    shards = storage.read_json(folder / tar.MANIFEST)["shards"]
    change_manifest(folder, shards=[shards[1], shards[0], shards[2]])
    (folder / "other.tar").write_bytes(b"")
    found = reasons(folder)
    assert "mixwright-00001.tar None: is shard 0 in manifest.json" in found
    assert "mixwright-00001.tar None: begins at position 15, the shards before it end at 0" in found
    assert "other.tar None: is not in manifest.json" in found


def test_an_index_that_points_elsewhere(folder: Path) -> None:
    path = folder / "mixwright-00000.parquet"
    rows = storage.read_table(path).to_pylist()
    rows[2]["offset"] += 1
    rows[3]["member"] = "000000099.00.jpg"
    storage.write_table(path, tar.pa.Table.from_pylist(rows, schema=tar.INDEX))
    found = reasons(folder)
    assert "mixwright-00000.parquet None: has sha256" in found
    assert f"its index says ({rows[2]['offset']}, {rows[2]['length']})" in found
    assert "has no member 000000099.00.jpg" in found
    assert "which is not in its index" in found


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"tokens": 9}, "says tokens 9, its parts have"),
        ({"images": 2}, "says images 2, its parts have 1"),
        ({"tokens": 999}, "has 999 tokens, seq_len is 256"),
        ({"images": 4}, "has 4 images, max_images is 3"),
    ],
)
def test_wrong_sums(
    folder: Path,
    mixture: Any,
    write_manifest: Callable[..., None],
    change: dict[str, int],
    what: str,
) -> None:
    rewrite(folder, mixture, write_manifest, lambda row: row.update(change))
    (first, *_) = verify(folder)
    assert first.position == 3
    assert what in reasons(folder)


def test_wrong_counts_of_parts(
    folder: Path, mixture: Any, write_manifest: Callable[..., None]
) -> None:
    def move_two_tokens(row: dict[str, Any]) -> None:
        image, text = row["segments"][0]["parts"]
        image["tokens"] += 2
        text["tokens"] -= 2

    rewrite(folder, mixture, write_manifest, move_two_tokens)
    found = reasons(folder)
    assert "3: has an image that is not 16 tokens" in found
    assert "tokens for 'Document 3.0" in found
    assert len(verify(folder)) == 2


def test_texts_are_counted_only_by_the_tokenizer_that_was_used(
    folder: Path, mixture: Any, write_manifest: Callable[..., None]
) -> None:
    def more_text(row: dict[str, Any]) -> None:
        row["segments"][0]["parts"][1]["text"] += " more"

    rewrite(folder, mixture, write_manifest, more_text)
    assert "tokens for 'Document 3.0" in reasons(folder)
    for other in ({"name": "mixwright-8k", "sha256": "0"}, {"name": "away.json", "sha256": "0"}):
        change_manifest(folder, tokenizer=other)
        assert tokenizer_of({"tokenizer": other}) is None
        assert verify(folder) == []


def test_json_that_is_no_sequence(folder: Path) -> None:
    replace(folder / FIRST, b'"segments":[{', b'"segmentz":[{')
    replace(folder / "mixwright-00002.tar", b'{"corpus"', b'["corpus"')
    found = reasons(folder)
    assert f"{FIRST} 0: 000000000.json is not the JSON of a sequence: KeyError" in found
    assert "00002.tar 30: 000000030.json is not the JSON of a sequence: JSONDecodeError" in found


def test_other_facts_in_the_index_than_in_the_tar(folder: Path) -> None:
    replace(folder / FIRST, b'"source":"site-0"', b'"source":"site-9"')
    replace(folder / FIRST, b'"position":2', b'"position":1')
    found = reasons(folder)
    assert f"{FIRST} 0: has other segments than its index" in found
    assert f"{FIRST} 2: says position 1, its index 2" in found


def test_the_ratio_of_every_prefix(
    folder: Path, mixture: Any, write_manifest: Callable[..., None]
) -> None:
    change_manifest(folder, weights={"interleaved": 10, "captions": 45, "text": 45})
    found = [problem for problem in verify(folder) if "off its weight" in problem.what]
    assert {problem.what.split()[1] for problem in found} == {"interleaved", "text"}

    rows = sorted(mixture.rows, key=lambda row: str(row["corpus"]))  # right only at the end
    info = tar.write_shard(folder / FIRST, enumerate(rows), mixture.image_bytes)
    for number in (1, 2):
        (folder / f"mixwright-{number:05d}.tar").unlink()
    write_manifest(folder, [info])
    found = verify(folder)
    assert (
        Problem("manifest.json", 1, "has captions 1.10 sequences off its weight in this prefix")
        in found
    )


def test_a_corpus_without_weight(folder: Path) -> None:
    change_manifest(folder, weights={"interleaved": 50, "captions": 50})
    assert "has text 2.00 sequences off its weight" in reasons(folder)


def test_totals(folder: Path) -> None:
    manifest = storage.read_json(folder / tar.MANIFEST)
    manifest["corpora"]["text"]["documents"] += 1
    change_manifest(folder, corpora=manifest["corpora"], sequences=41)
    found = reasons(folder)
    assert "manifest.json None: says 41 sequences" in found
    assert "manifest.json None: says {'documents': 9" in found


def test_the_list_is_bounded_and_one_shard_does_not_fill_it(folder: Path) -> None:
    os.truncate(folder / FIRST, 1024)
    (folder / "mixwright-00002.tar").unlink()
    found = verify(folder)
    assert len(found) < LIMIT
    assert Problem("mixwright-00002.tar", None, "is missing") in found
