"""The image store: what is rejected and why, what a tar holds, and how an image is read again."""

import hashlib
import io
import json
import struct
import subprocess
import sys
import tarfile
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from shards import images
from shards.schema import IMAGE


def picture(width: int = 40, height: int = 30, mode: str = "RGB", seed: int = 0) -> Image.Image:
    """A smooth picture: a few random blocks, enlarged."""
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


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
    monkeypatch.setattr(images, "open_image", lambda body: pytest.fail("decoded"))
    assert reason(png_header(50_000, 50_000)) == "image_too_many_pixels"  # over Pillow's own limit
    assert reason(png_header(8192, 8193)) == "image_too_many_pixels"
    assert reason(encoded(picture(40, 30)), max_pixels=1199) == "image_too_many_pixels"


def test_the_pixel_limit_itself_is_allowed() -> None:
    assert images.inspect_image(encoded(picture(40, 30)), max_pixels=1200)["width"] == 40


@settings(max_examples=150, deadline=None)
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


def test_open_image_takes_the_first_frame() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    body = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert images.open_image(body).getpixel((0, 0)) == (255, 0, 0)


def test_open_image_keeps_the_upper_byte_of_16_bits() -> None:
    body = encoded(Image.fromarray(np.full((3, 3), 0x8040, np.uint16)), "PNG")
    assert images.open_image(body).getpixel((1, 1)) == (0x80, 0x80, 0x80)


def sideways() -> bytes:
    """40 x 20, left half red, marked to be turned by 90 degrees clockwise."""
    image = Image.new("RGB", (40, 20), "blue")
    image.paste("red", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, exif=exif, quality=95)


def test_open_image_turns_a_photo_upright() -> None:
    upright = images.open_image(sideways())
    assert upright.size == (20, 40)
    red, _, blue = upright.getpixel((10, 5))
    assert red > 200 and blue < 50


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


def test_resize_shrinks_what_is_bigger_and_keeps_the_facts_of_the_original(tmp_path: Path) -> None:
    big, small = encoded(picture(200, 100), "PNG"), encoded(picture(50, 64), "PNG")
    resize = images.Resize(max_side=64, quality=90)
    fetched = [("u:big", big, None), ("u:small", small, None), ("u:again", big, None)]
    rows = images.store_images(fetched, tmp_path / "t.tar", "t.tar", resize)
    assert rows["width"].to_pylist() == [200, 50, 200]
    assert rows["format"].to_pylist() == ["jpeg", "png", "jpeg"]
    assert rows["sha256"][0].as_py() == hashlib.sha256(big).hexdigest()
    stored = images.read_images(tmp_path, rows)
    assert Image.open(io.BytesIO(stored[0])).size == (64, 32)
    assert stored[1] == small
    assert rows["offset"][2] == rows["offset"][0]


def test_resize_sees_what_open_image_sees(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (80, 80), (255, 0, 0, 0))
    deep = Image.fromarray(np.full((80, 80), 0x8040, np.uint16))
    fetched = [(str(k), encoded(i, "PNG"), None) for k, i in enumerate((clear, deep))]
    fetched.append(("2", sideways(), None))
    rows = images.store_images(fetched, tmp_path / "t.tar", "t.tar", images.Resize(20))
    white, grey, turned = (Image.open(io.BytesIO(b)) for b in images.read_images(tmp_path, rows))
    assert min(white.convert("L").tobytes()) >= 254
    assert abs(grey.convert("L").getpixel((5, 5)) - 0x80) <= 1
    assert turned.size == (10, 20)


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
    code = "import sys, shards.images; assert not {'imagehash', 'img2dataset'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
