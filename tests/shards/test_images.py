"""The image store: what is rejected and why, what a tar holds, and how an image is read again."""

import hashlib
import io
import json
import struct
import subprocess
import sys
import tarfile
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from shards import images
from shards.schema import IMAGE
from tests.shards import variants
from tests.shards.variants import encoded


def picture(width: int = 40, height: int = 30, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth picture: a few random blocks, enlarged."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def reason(body: bytes, **limits: int) -> str:
    with pytest.raises(images.ImageRejectedError) as rejected:
        images.inspect_image(body, **limits)
    return str(rejected.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP"])
def test_inspect_measures_every_format_of_the_store(kind: str) -> None:
    body = encoded(picture(40, 30), kind)
    facts = images.inspect_image(body)
    assert (facts["width"], facts["height"], facts["format"]) == (40, 30, kind.lower())
    assert facts["sha256"] == hashlib.sha256(body).hexdigest()
    assert facts["md5"] == hashlib.md5(body).hexdigest()
    assert len(facts["phash"]) == 16
    assert facts["phash"] == images.inspect_image(body)["phash"]


def test_phash_survives_encoding_and_size_but_not_another_picture() -> None:
    def bits(image: Image.Image, kind: str) -> int:
        return int(images.inspect_image(encoded(image, kind))["phash"], 16)

    original = bits(picture(200, 160), "PNG")
    assert (original ^ bits(picture(100, 80), "JPEG")).bit_count() <= 4
    assert (original ^ bits(picture(200, 160, seed=1), "PNG")).bit_count() > 10


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "image_not_decodable"),
        (b"<!doctype html><html><body>not found</body></html>", "image_not_decodable"),
        (b"\xff\xd8\xff\xe0 no jpeg", "image_not_decodable"),
        (encoded(picture())[:-200], "image_not_decodable"),
        (encoded(picture(), "PNG")[:-30], "image_not_decodable"),
        (encoded(picture(), "WEBP")[:-30], "image_not_decodable"),
        (png_header(10, 10), "image_not_decodable"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image_format"),
        (b'<?xml version="1.0"?>\n<svg width="9"></svg>', "image_format"),
        (encoded(picture(), "BMP"), "image_format"),
        (encoded(picture(), "TIFF"), "image_format"),
        (encoded(picture(), "ICO"), "image_format"),
    ],
)
def test_rejected_bytes_have_a_reason(body: bytes, expected: str) -> None:
    assert reason(body) == expected


def test_a_corrupt_png_checksum_is_not_decodable() -> None:
    body = bytearray(encoded(picture(), "PNG"))
    body[body.index(b"IDAT") + 10] ^= 0xFF
    assert reason(bytes(body)) == "image_not_decodable"


def test_pixels_are_counted_before_anything_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_seen", lambda *_: pytest.fail("decoded"))
    assert reason(png_header(50_000, 50_000)) == "image_too_many_pixels"  # over Pillow's own limit
    assert reason(png_header(8192, 8193)) == "image_too_many_pixels"
    assert reason(encoded(picture(40, 30)), max_pixels=1199) == "image_too_many_pixels"


def test_the_pixel_limit_itself_is_allowed() -> None:
    assert images.inspect_image(encoded(picture(40, 30)), max_pixels=1200)["width"] == 40


@settings(max_examples=150)
@given(
    st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8),
)
def test_damaged_images_are_inspected_or_rejected(kind: str, damage: list[tuple[int, int]]) -> None:
    body = bytearray(encoded(picture(24, 24), kind))
    for position, value in damage:
        body[position % len(body)] = value
    with suppress(images.ImageRejectedError):
        assert images.inspect_image(bytes(body))["format"] == kind.lower()


def test_open_image_lays_transparency_on_white() -> None:
    clear = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert images.open_image(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (2, 2), (0, 128))
    assert images.open_image(encoded(half, "PNG")).getpixel((0, 0)) == (127, 127, 127)


def downloads() -> list[tuple[str, bytes | None, str | None]]:
    return [
        ("https://a.test/1.jpg", encoded(picture(seed=1)), None),
        ("https://a.test/gone.jpg", None, "http_404"),
        ("https://a.test/2.png", encoded(picture(seed=2), "PNG"), None),
        ("https://b.test/copy-of-1.jpg", encoded(picture(seed=1)), None),
        ("https://b.test/page.jpg", b"<html>", None),
    ]


def test_store_images_has_a_row_for_every_url_in_order(tmp_path: Path) -> None:
    table = images.store_images(downloads(), tmp_path / "x" / "part-00000.tar", "x/part-00000.tar")
    assert table.schema == IMAGE
    assert table["url"].to_pylist() == [url for url, _, _ in downloads()]
    reasons = [None, "http_404", None, None, "image_not_decodable"]
    assert table["reason"].to_pylist() == reasons
    kept = [reason is None for reason in reasons]
    rows = table.filter(pa.array(kept))
    bodies = [body for (_, body, _), keep in zip(downloads(), kept, strict=True) if keep]
    assert images.read_images(tmp_path, rows) == bodies
    assert [
        images.read_image(tmp_path, *place)
        for place in zip(*(rows[c].to_pylist() for c in ("tar", "offset", "length")), strict=True)
    ] == bodies


def test_the_tar_is_webdataset_without_duplicates_and_reproducible(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        images.store_images(downloads(), tmp_path / name, name)
    assert (tmp_path / "a.tar").read_bytes() == (tmp_path / "b.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as tar:
        members = tar.getmembers()
    hashes = [hashlib.sha256(downloads()[k][1] or b"").hexdigest() for k in (0, 2)]
    assert [m.name for m in members] == [f"{hashes[0]}.jpg", f"{hashes[1]}.png"]
    assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in members} == {(0, 0, 0, 0o644, "")}
    samples = webdataset.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)
    assert [sample["__key__"] for sample in samples] == hashes


def test_a_run_that_fails_leaves_no_tar(tmp_path: Path) -> None:
    def breaks() -> object:
        yield from downloads()
        raise RuntimeError("worker lost")

    (tmp_path / "part.tar").write_bytes(b"the earlier one")
    with pytest.raises(RuntimeError, match="worker lost"):
        images.store_images(breaks(), tmp_path / "part.tar", "part.tar")
    assert [path.name for path in tmp_path.iterdir()] == ["part.tar"]
    assert (tmp_path / "part.tar").read_bytes() == b"the earlier one"


def stored(folder: Path, *bodies: bytes, side: int = 64) -> tuple[pa.Table, list[bytes]]:
    """The index rows of images that are stored with a resize, and their bytes."""
    fetched = [(f"u:{k}", body, None) for k, body in enumerate(bodies)]
    rows = images.store_images(fetched, folder / "t.tar", "t.tar", images.Resize(side))
    return rows, images.read_images(folder, rows)


def shown(body: bytes) -> Image.Image:
    """What a reader sees that knows nothing of orientation, alpha or profiles."""
    return Image.open(io.BytesIO(body))


def test_resize_shrinks_what_is_bigger_and_keeps_the_facts_of_the_original(tmp_path: Path) -> None:
    big, small = encoded(picture(200, 100), "PNG"), encoded(picture(50, 640), "PNG")
    rows, bodies = stored(tmp_path, big, small, big)
    assert rows["width"].to_pylist() == [200, 50, 200]
    assert rows["format"].to_pylist() == ["jpeg", "png", "jpeg"]
    assert rows["original_format"].to_pylist() == ["png", "png", "png"]
    assert rows["sha256"][0].as_py() == hashlib.sha256(big).hexdigest()
    assert shown(bodies[0]).size == (128, 64)
    assert bodies[1] == small
    assert rows["offset"][2] == rows["offset"][0]


@pytest.mark.parametrize("name", variants.NAMES)
def test_open_image_shows_every_kind_of_file_as_it_is_meant(name: str) -> None:
    body, expected = variants.VARIANTS()[name]
    seen = images.open_image(body)
    assert seen.mode == "RGB"
    difference = np.abs(np.asarray(seen, float) - expected)
    lossy = "JPEG" in name
    assert difference.mean() < (0.2 if lossy else 0.5) and difference.max() <= (9 if lossy else 1)


@pytest.mark.parametrize("name", variants.NAMES)
def test_what_is_stored_is_seen_alike_by_any_reader(name: str, tmp_path: Path) -> None:
    body, expected = variants.VARIANTS()[name]
    _, (small,) = stored(tmp_path, body, side=200)
    assert shown(small).size == (221, 200) and shown(small).mode == "RGB"
    assert not shown(small).info.keys() & {"exif", "xmp", "icc_profile", "comment"}
    pixels = Image.fromarray(expected.round().astype(np.uint8))
    wanted = np.asarray(pixels.resize((221, 200), Image.Resampling.BOX), float)
    rough = 8.0 if name == "PNG of one bit" else 2.0  # its dots are no picture for JPEG
    assert np.abs(np.asarray(shown(small), float) - wanted).mean() < rough


def test_a_plain_image_that_is_small_enough_keeps_its_bytes(tmp_path: Path) -> None:
    plain = {"JPEG", "progressive JPEG", "grey JPEG", "PNG", "PNG of one bit", "palette", "WebP"}
    bodies = {name: body for name, (body, _) in variants.VARIANTS().items()}
    rows, kept = stored(tmp_path, *bodies.values(), side=579)
    same = {name for name, body in zip(bodies, kept, strict=True) if body == bodies[name]}
    assert same == plain
    formats = dict(zip(bodies, rows["format"].to_pylist(), strict=True))
    assert {name for name, kind in formats.items() if kind == "jpeg"} == (set(bodies) - plain) | {
        name for name in plain if "JPEG" in name
    }
    animated = dict(zip(bodies, rows["animated"].to_pylist(), strict=True))
    assert {name for name, moves in animated.items() if moves} == {
        name for name in bodies if "animated" in name
    }


def test_small_images_lose_their_metadata(tmp_path: Path) -> None:
    image = picture(40, 30)
    bodies = [
        encoded(image, exif=variants.exif(1)),
        encoded(image, comment=b"by me"),
        encoded(image, xmp=b"<x/>"),
        variants.with_segment(encoded(image), 0xE5, b"of a maker"),
        variants.with_chunk(encoded(image, "PNG"), b"tEXt", b"Comment\0at home"),
        variants.with_chunk(encoded(image, "PNG"), b"prVt", b"at home"),
        encoded(image, "WEBP", exif=variants.exif(1)),
    ]
    _, kept = stored(tmp_path, *bodies)
    for before, after in zip(bodies, kept, strict=True):
        assert shown(after).size == (40, 30)
        assert after != before and b"home" not in after and b"maker" not in after
        assert not shown(after).info.keys() & {"exif", "xmp", "comment"}


def test_what_pictures_say_of_their_licence_is_in_the_index(tmp_path: Path) -> None:
    tags = Image.Exif()
    tags[0x013B], tags[0x8298] = "Ada", "CC BY 4.0"
    rows, _ = stored(tmp_path, encoded(picture(90, 90), exif=tags))
    assert rows.select(["creator", "copyright", "licence"]).to_pylist() == [
        {"creator": "Ada", "copyright": "CC BY 4.0", "licence": None}
    ]


@pytest.mark.parametrize("turn", range(1, 9))
def test_photos_are_upright_as_pillow_turns_them(turn: int, tmp_path: Path) -> None:
    body = encoded(variants.photo(), quality=95, exif=variants.exif(turn))
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(body)))
    assert np.array_equal(np.asarray(images.open_image(body)), np.asarray(expected))
    rows, (small,) = stored(tmp_path, body, side=200)
    size = (221, 200) if turn <= 4 else (200, 221)
    assert shown(small).size == size
    wanted = np.asarray(expected.resize(size, Image.Resampling.BOX), float)
    assert np.abs(np.asarray(shown(small), float) - wanted).mean() < 2
    assert (rows["width"][0].as_py(), rows["height"][0].as_py()) == (640, 579)


@pytest.mark.parametrize("value", [0, 9, 7000])
def test_an_orientation_that_is_none_turns_nothing(value: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = value
    assert images.open_image(encoded(picture(40, 20), exif=tags)).size == (40, 20)


def test_broken_metadata_costs_no_picture() -> None:
    body = variants.with_segment(encoded(picture()), 0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert images.inspect_image(body)["width"] == 40
    profiled = encoded(picture(), "PNG", icc_profile=variants.p3_profile()[:200])
    assert np.array_equal(np.asarray(images.open_image(profiled)), np.asarray(picture()))


def test_a_large_jpeg_is_decoded_in_part_and_measured_alike() -> None:
    whole = variants.photo().resize((2560, 2316), Image.Resampling.LANCZOS)
    body = encoded(whole, quality=95)
    large = images._inspected(images._opened(body, 2**26), body, images.MEASURED_SIDE)
    assert large.seen.size == (640, 579)
    assert (large.facts["width"], large.facts["height"]) == (2560, 2316)
    small = images.inspect_image(encoded(variants.photo(), quality=95))
    distance = int(large.facts["phash"], 16) ^ int(small["phash"], 16)
    assert distance.bit_count() <= 2
    assert large.facts["uniformity"] == pytest.approx(small["uniformity"], rel=0.02)


def test_the_recipes_size_decides_how_much_is_decoded(tmp_path: Path) -> None:
    whole = encoded(variants.photo().resize((2560, 2316)))
    for side in (100, 378, 600, 2000):
        _, (small,) = stored(tmp_path, whole, side=side)
        assert min(shown(small).size) == side


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_photograph_cut_short_is_not_decodable(kind: str, share: float) -> None:
    body = encoded(variants.photo(), kind)
    assert reason(body[: int(len(body) * share)]) == "image_not_decodable"


@pytest.mark.parametrize(
    ("name", "head"),
    [(b"zTXt", b"Comment\0\0"), (b"iCCP", b"wide\0\0"), (b"iTXt", b"Comment\0\1\0\0\0")],
)
def test_text_that_inflates_is_refused_before_it_does(name: bytes, head: bytes) -> None:
    bomb = head + zlib.compress(bytes(50_000_000))
    body = variants.with_chunk(encoded(picture(), "PNG"), name, bomb)
    tracemalloc.start()
    assert reason(body) == "image_not_decodable"
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_the_same_pictures_give_the_same_tar(tmp_path: Path) -> None:
    bodies = [body for body, _ in variants.VARIANTS().values()]
    for name in ("a", "b"):
        stored(tmp_path / name, *bodies, side=100)
    assert (tmp_path / "a/t.tar").read_bytes() == (tmp_path / "b/t.tar").read_bytes()


def test_what_many_urls_hand_out_is_decoded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    inspected = images._inspected
    monkeypatch.setattr(images, "_inspected", lambda *a: seen.append(a) or inspected(*a))
    rows, _ = stored(tmp_path, *[encoded(picture(), "PNG")] * 5)
    assert len(seen) == 1
    assert len(set(rows["sha256"].to_pylist())) == 1 and rows["url"][4].as_py() == "u:4"


def test_reading_past_the_end_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(b"12345")
    with pytest.raises(EOFError, match=r"t\.tar ends at byte 5"):
        images.read_image(tmp_path, "t.tar", 3, 3)


def test_reading_a_row_without_an_image_is_an_error(tmp_path: Path) -> None:
    rows = images.store_images([("u", None, "timed_out")], tmp_path / "t.tar", "t.tar")
    with pytest.raises(ValueError, match="without a tar"):
        images.read_images(tmp_path, rows)


def webdataset_tar(path: Path, mode: str = "w") -> list[bytes]:
    bodies = [encoded(picture(seed=k)) for k in range(2)]
    with tarfile.open(path, mode) as tar:
        for key, body in enumerate([*bodies, b"broken"]):
            sidecar = json.dumps({"url": f"https://a.test/{key}", "status": "success"}).encode()
            for extension, data in (("jpg", body), ("json", sidecar), ("txt", b"a caption")):
                member = tarfile.TarInfo(f"{key:09d}.{extension}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return bodies


def test_adopt_indexes_the_images_of_a_webdataset_tar(tmp_path: Path) -> None:
    bodies = webdataset_tar(tmp_path / "00000.tar")
    rows = images.adopt_tar(tmp_path / "00000.tar", "00000.tar")
    assert rows.schema == IMAGE
    assert rows["url"].to_pylist() == [f"https://a.test/{k}" for k in range(3)]
    assert rows["reason"].to_pylist() == [None, None, "image_not_decodable"]
    assert rows["sha256"][1].as_py() == hashlib.sha256(bodies[1]).hexdigest()
    assert images.read_images(tmp_path, rows.slice(0, 2)) == bodies


def test_adopt_names_the_member_where_the_sample_has_no_url(tmp_path: Path) -> None:
    with webdataset.TarWriter(str(tmp_path / "t.tar")) as tar:
        body = encoded(picture(), "PNG")
        tar.write({"__key__": "a.b/x", "png": body, "json": b"[1]"})
        tar.write({"__key__": "y", "png": body, "json": b"{"})
    rows = images.adopt_tar(tmp_path / "t.tar", "old/t.tar")
    assert rows["url"].to_pylist() == ["old/t.tar/a.b/x.png", "old/t.tar/y.png"]


def test_adopt_refuses_tars_that_cannot_be_read_in_place(tmp_path: Path) -> None:
    webdataset_tar(tmp_path / "t.tar.gz", "w:gz")
    webdataset_tar(tmp_path / "whole.tar")
    (tmp_path / "cut.tar").write_bytes((tmp_path / "whole.tar").read_bytes()[:1000])
    for name in ("t.tar.gz", "cut.tar"):
        with pytest.raises(tarfile.ReadError):
            images.adopt_tar(tmp_path / name, name)


def test_readers_need_no_imagehash() -> None:
    code = (
        "import sys, shards.images; assert not {'imagehash', 'img2dataset', 'cv2'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
