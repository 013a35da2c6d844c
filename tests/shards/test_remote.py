"""What reads shards and runs reads them in an object store as it does on a disk."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from shards import images, ledger, schema, statistics, storage, tar, tokens
from shards.loader import AHEAD, ShardError, open_shards
from shards.report.page import REPORT, write_report
from shards.storage import Location, Remote
from shards.verify import Problem, verify
from shards.why import why
from tests.servers.s3 import S3Server
from tests.shards.buckets import copy
from tests.shards.conftest import Mixture
from tests.shards.stages import finish, folder_of

FIRST = "mixwright-00000.tar"


@pytest.fixture
def remote(folder: Path, bucket: Remote) -> Remote:
    """The shards of `folder` in a bucket, as the stage of a run."""
    copy(folder, folder_of(bucket / "run", "shards"))
    finish(bucket / "run", "shards")
    return bucket / "run" / "shards"


def gets(server: S3Server, suffix: str) -> int:
    return sum(r.method == "GET" and r.key.endswith(suffix) for r in server.requests)


def test_the_loader_reads_the_same_sequences(folder: Path, remote: Remote) -> None:
    here, there = open_shards(folder), open_shards(str(remote))
    assert list(there.read(rank=1, world=3, start=2)) == list(here.read(rank=1, world=3, start=2))
    assert there[39] == here[39]
    assert open_shards(folder_of(remote.parent, "shards")).manifest == here.manifest


def test_a_sequence_is_one_range_read_and_an_index_is_read_once(
    remote: Remote, server: S3Server
) -> None:
    shards = open_shards(remote)
    server.clear()
    assert len(list(shards.read())) == 40
    assert gets(server, ".tar") == 40
    for shard in shards.manifest["shards"]:
        name = shard["name"].removesuffix(".tar")
        tars = [r for r in server.requests if r.key.endswith(f"{name}.tar") and r.method == "HEAD"]
        assert len(tars) == 1, "opened by one of the threads that read ahead"


def test_reading_goes_a_few_sequences_ahead(remote: Remote, server: S3Server) -> None:
    shards = open_shards(remote)
    server.clear()
    reader = shards.read()
    assert next(reader).position == 0
    reader.close()
    assert 1 <= gets(server, ".tar") <= AHEAD


def test_the_loader_outlives_what_a_store_does(
    folder: Path, remote: Remote, server: S3Server
) -> None:
    shards = open_shards(remote)
    server.fault("error", method="GET", keys="*.parquet", count=2)
    server.fault("error", method="GET", keys="*.tar", count=3, status=500, code="InternalError")
    server.fault("drop", method="GET", keys="*.tar", count=3, after=700)
    server.fault("truncate", method="GET", keys="*.tar", count=3, after=900)
    server.fault("slow", method="GET", keys="*.tar", count=2, seconds=0.2)
    assert list(shards.read()) == list(open_shards(folder).read())


def test_a_store_that_refuses_is_not_taken_for_damage(remote: Remote, server: S3Server) -> None:
    shards = open_shards(remote)
    assert shards[30].position == 30  # opens the third
    server.fault("error", keys="*0[02].tar", count=1000, status=403, code="AccessDenied")
    reads = (lambda: shards[0], lambda: shards[30], lambda: list(shards.read()))
    for read in (*reads, lambda: verify(remote)):
        with pytest.raises(PermissionError, match="s3://"):
            read()


def test_missing_shards_are_named(bucket: Remote, remote: Remote) -> None:
    with pytest.raises(ShardError, match=r"s3://.*nowhere/manifest\.json is missing"):
        open_shards(bucket / "nowhere")
    root = folder_of(remote.parent, "shards")
    root.store.delete([f"{root.key}/{FIRST}"])
    with pytest.raises(ShardError, match=r"00000\.tar or its index cannot be read .* copy it"):
        open_shards(remote)[0]


def test_verify_reads_each_tar_once(remote: Remote, server: S3Server) -> None:
    server.clear()
    assert verify(str(remote)) == []
    assert gets(server, ".tar") == 3


def test_verify_finds_what_is_wrong(folder: Path, remote: Remote) -> None:
    root = folder_of(remote.parent, "shards")
    data = bytearray((folder / FIRST).read_bytes())
    data[data.index(b"Document 3.0") + 7] ^= 1
    storage.write_atomic(root / FIRST, bytes(data))
    storage.write_atomic(root / "other.tar", b"")
    root.store.delete([f"{root.key}/mixwright-00001.tar"])
    found = verify(remote)
    assert Problem("other.tar", None, "is not in manifest.json") in found
    assert Problem("mixwright-00001.tar", None, "is missing") in found
    assert any(p.file == FIRST and p.position == 3 and "tokens for" in p.what for p in found)


def test_shards_are_written_to_a_bucket_as_to_a_disk(
    folder: Path, bucket: Remote, mixture: Mixture
) -> None:
    rows = list(enumerate(mixture.rows))[:15]
    info = tar.write_shard(bucket / "s" / FIRST, rows, mixture.image_bytes)
    assert storage.names(bucket / "s") == ["mixwright-00000.parquet", FIRST]
    for name in (FIRST, "mixwright-00000.parquet"):
        assert storage.read_bytes(bucket / "s" / name) == (folder / name).read_bytes()
    assert info.sha256 == storage.sha256_file(folder / FIRST)


def test_a_tokenizer_in_a_bucket(bucket: Remote) -> None:
    bundled = (tokens.FOLDER / f"{tokens.BUNDLED}.json").read_bytes()
    storage.write_atomic(bucket / "t.json", bundled)
    sha256 = hashlib.sha256(bundled).hexdigest()
    assert tokens.tokenizer_identity(f"{bucket}t.json") == {
        "name": f"{bucket}t.json",
        "sha256": sha256,
    }
    assert tokens.load_tokenizer(bucket / "t.json").get_vocab_size() == 8192
    with pytest.raises(FileNotFoundError, match="no tokenizer 's3://"):
        tokens.load_tokenizer(bucket / "none.json")


# Images


def picture(number: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (60 + number, 50), (number * 20, 90, 30)).save(out, "PNG")
    return out.getvalue()


def test_images_are_stored_and_read_in_few_requests(bucket: Remote, server: S3Server) -> None:
    bodies = [picture(number) for number in range(12)]
    tables = []
    for k in range(3):
        fetched = [(f"u:{k}:{i}", body, None) for i, body in enumerate(bodies[k::3])]
        tables.append(images.store_images(fetched, bucket / "st" / f"{k}.tar", f"st/{k}.tar"))
    rows = pa.concat_tables(tables).sort_by("length")
    server.clear()
    found = images.read_images(bucket, rows)
    assert [hashlib.sha256(body).hexdigest() for body in found] == rows["sha256"].to_pylist()
    assert gets(server, ".tar") == 3, "the images of a tar lie near each other"
    row = rows.to_pylist()[5]
    assert images.read_image(bucket, row["tar"], row["offset"], row["length"]) == found[5]
    with pytest.raises(EOFError):
        images.read_image(bucket, "st/0.tar", 10**6, 3)


def test_a_failed_store_leaves_no_tar(bucket: Remote) -> None:
    def breaks() -> Any:
        yield "u", picture(1), None
        raise RuntimeError("worker lost")

    with pytest.raises(RuntimeError, match="worker lost"):
        images.store_images(breaks(), bucket / "a.tar", "a.tar")
    assert not storage.exists(bucket / "a.tar")


def test_adopting_a_tar_reads_it_once(bucket: Remote, server: S3Server) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for key in range(3):
            sidecar = json.dumps({"url": f"https://a.test/{key}"}).encode()
            for name, data in ((f"{key}.png", picture(key)), (f"{key}.json", sidecar)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                made.addfile(member, io.BytesIO(data))
    storage.write_atomic(bucket / "00000.tar", out.getvalue())
    server.clear()
    rows = images.adopt_tar(bucket / "00000.tar", "00000.tar")
    assert gets(server, ".tar") == 1
    assert rows["url"].to_pylist() == [f"https://a.test/{key}" for key in range(3)]
    assert images.read_images(bucket, rows) == [picture_of(out, key) for key in range(3)]


def picture_of(made: io.BytesIO, key: int) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(made.getvalue())) as opened:
        member = opened.extractfile(f"{key}.png")
        assert member is not None
        return member.read()


# Runs


def write_run(run: Location) -> None:
    """A reading stage with an image store and a filter; beside it, shards if there are some."""
    names = [hashlib.sha256(picture(number)).hexdigest() for number in range(4)]
    folder = folder_of(run, "captions/download")
    fetched = [(f"http://a.example/{k}.png", picture(k), None) for k in range(4)]
    index = images.store_images(fetched, folder / "store" / "h.tar", "store/h.tar")
    storage.write_table(folder / "index" / "part-00000.parquet", index)
    rows = schema.documents(
        schema.document(
            "captions",
            None,
            [
                schema.image_part(f"http://a.example/{k}.png", sha256=name),
                schema.text_part(f"About number {k}."),
            ],
            position=k,
        )
        for k, name in enumerate(names)
    )
    none = schema.DROP.empty_table()
    ledger.write_part(folder, 0, rows, none, read={"document": 4}, kept={"document": 4})
    finish(run, "captions/download")
    drops = ledger.drop_rows(rows, [None, "too_short", None, "too_short"])
    kept = rows.take([0, 2])
    folder = folder_of(run, "captions/filter_images-2")
    ledger.write_part(folder, 0, kept, drops, read={"document": 4}, kept={"document": 2})
    finish(run, "captions/filter_images-2", inputs={"captions/download": "x"})


def test_a_run_is_described_reported_and_asked_as_on_a_disk(
    tmp_path: Path, folder: Path, remote: Remote
) -> None:
    here, there = tmp_path / "here" / "run", remote.parent
    copy_of_shards = folder_of(here, "shards")
    copy_of_shards.parent.mkdir(parents=True)
    folder.rename(copy_of_shards)
    finish(here, "shards")
    for run in (here, there):
        write_run(run)
    assert statistics.describe(str(there)) == statistics.describe(here)
    assert statistics.describe(there / "shards") == statistics.describe(here / "shards")
    assert statistics.describe(there / "captions/filter_images-2") == statistics.describe(
        here / "captions/filter_images-2"
    )
    dropped = "http://a.example/1.png"
    assert [a.reason for a in why(there, dropped)] == [None, "too_short"]
    for query in (dropped, "http://a.example/2.png", f"{7:016x}{1:016x}"):
        assert why(str(there), query) == why(here, query)

    made = write_report(str(there))
    assert made == there / REPORT
    write_report(here)
    pages = [storage.read_bytes(run / REPORT).decode() for run in (here, there)]
    assert pages[1].replace(str(there), "run") == pages[0]
    assert pages[1].count("data:image/jpeg") == 8  # kept, dropped and packed ones
    assert "picture not shown" not in pages[1]


def test_an_empty_place_holds_nothing(bucket: Remote) -> None:
    with pytest.raises(FileNotFoundError, match="give a folder of shards"):
        statistics.describe(bucket / "nowhere")


def test_a_bucket_may_itself_be_the_folder(folder: Path, bucket: Remote) -> None:
    with pytest.raises(FileNotFoundError, match="give a folder of shards"):
        statistics.describe(bucket)
    copy(folder, bucket)
    assert statistics.describe(bucket) == statistics.describe(folder)
    assert verify(bucket) == []
