import json
import multiprocessing
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards import ledger, loader, storage, tar


@given(st.integers(0, 300), st.integers(1, 20), st.integers(0, 320))
def test_every_position_is_read_once_by_any_world(total: int, world: int, start: int) -> None:
    read = [
        position
        for rank in range(world)
        for position in loader.positions_of(total, rank=rank, world=world, start=start)
    ]
    assert sorted(read) == list(range(start, total))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 20))
def test_a_run_resumes_on_another_number_of_readers(before: int, after: int, steps: int) -> None:
    done = {
        position
        for rank in range(before)
        for position in loader.positions_of(200, rank=rank, world=before)[:steps]
    }
    state = steps * before
    left = {
        position
        for rank in range(after)
        for position in loader.positions_of(200, rank=rank, world=after, start=state)
    }
    assert done | left == set(range(200))
    assert not done & left


@pytest.mark.parametrize("wrong", [{"rank": 2, "world": 2}, {"rank": -1}, {"start": -1}])
def test_positions_of_refuses_what_would_lose_positions(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"rank|start"):
        loader.positions_of(10, **wrong)


def test_sequences_by_position(folder: Path, mixture: Any) -> None:
    shards = loader.open_shards(folder)
    assert len(shards) == 40
    for position in (39, 0, 14, 15, 3):
        row = mixture.rows[position]
        sequence = shards[position]
        assert sequence.position == position
        assert (sequence.corpus, sequence.tokens) == (row["corpus"], row["tokens"])
        assert sequence.segments == tar.sequence_json(position, row)["segments"]
        parts = tar.image_parts(row)
        names = [tar.image_member(k, part) for k, part in enumerate(parts)]
        assert sequence.images == dict(zip(names, mixture.image_bytes(parts), strict=True))
    for position in (-1, 40):
        with pytest.raises(IndexError, match=f"position {position} of 40"):
            shards[position]


def test_read_is_the_positions_of_one_reader(folder: Path) -> None:
    shards = loader.open_shards(str(folder))
    read = shards.read(rank=1, world=3, start=12)
    assert [sequence.position for sequence in read] == list(range(13, 40, 3))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are listed in /proc")
def test_tars_are_opened_when_read_and_only_so_many(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_tars() -> int:
        links = (Path("/proc/self/fd") / name for name in os.listdir("/proc/self/fd"))
        files = [os.path.realpath(link) for link in links]
        return sum(file.startswith(str(folder)) and file.endswith(".tar") for file in files)

    monkeypatch.setattr(loader, "OPEN_SHARDS", 2)
    shards = loader.open_shards(folder)
    assert open_tars() == 0
    assert len(list(shards.read())) == 40
    assert open_tars() == 2


def test_a_pickled_reader_carries_no_files(folder: Path) -> None:
    shards = loader.open_shards(folder)
    first = shards[0]
    data = pickle.dumps(shards)
    assert len(data) < 4000
    assert pickle.loads(data)[0] == first
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_forked_and_spawned_workers_read_the_same(folder: Path, method: str) -> None:
    shards = loader.open_shards(folder)
    here = [shards[position] for position in range(40)]  # opens the tars before the fork
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(shards.__getitem__, range(40)) == here


def test_a_torch_data_loader_reads_in_order_with_any_workers(folder: Path) -> None:
    from torch.utils import data

    shards = loader.open_shards(folder)
    shards[0]
    for workers in (0, 2):
        read = data.DataLoader(shards, batch_size=None, num_workers=workers)
        assert [sequence.position for sequence in read] == list(range(40))


@pytest.mark.parametrize("given", [".", "shards", "shards/1a2b"])
def test_shards_are_found_by_their_run_their_stage_or_their_folder(
    folder: Path, tmp_path: Path, given: str
) -> None:
    run = tmp_path / "run"
    (run / "shards").mkdir(parents=True)
    (run / "shards" / "1a2b").symlink_to(folder)
    ledger.commit(run / "shards", {"folder": "1a2b"})
    storage.write_json(run / ledger.RUN_FILE, {"stages": ["shards"]})

    assert len(loader.open_shards(run / given)) == 40


def test_a_missing_manifest_names_the_mend(tmp_path: Path) -> None:
    with pytest.raises(loader.ShardError, match=r"manifest\.json is missing.* run the mix to its"):
        loader.open_shards(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": 9}', "has format 9 and this version reads 1: use the version"),
        ('{"format": 1}', "has no corpora, image_tokens, .*: copy it again"),
        ("{}", "is no manifest of shards .*KeyError"),
        ("[1]", "is no manifest of shards"),
        ('{"form', "is no manifest of shards"),
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(loader.ShardError, match=message):
        loader.open_shards(tmp_path)


def test_a_truncated_tar_is_named(folder: Path) -> None:
    path = folder / "mixwright-00001.tar"
    os.truncate(path, path.stat().st_size - 1)
    shards = loader.open_shards(folder)
    assert shards[14].position == 14
    with pytest.raises(loader.ShardError, match=r"mixwright-00001\.tar has .* copy it again"):
        shards[15]


@pytest.mark.parametrize("suffix", ["tar", "parquet"])
def test_a_missing_file_is_named(folder: Path, suffix: str) -> None:
    (folder / f"mixwright-00002.{suffix}").unlink()
    with pytest.raises(loader.ShardError, match=r"mixwright-00002.* cannot be read .* copy it"):
        loader.open_shards(folder)[30]


def test_an_index_of_another_shard_is_noticed(folder: Path) -> None:
    (folder / "mixwright-00000.parquet").replace(folder / "mixwright-00002.parquet")
    with pytest.raises(
        loader.ShardError, match=r"has 15 sequences from \[0\], its manifest says 10 from \[30\]"
    ):
        loader.open_shards(folder)[30]


def test_damage_inside_a_tar_is_noticed(folder: Path) -> None:
    path = folder / "mixwright-00000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b'{"corpus"')] = ord("x")
    path.write_bytes(data)
    with pytest.raises(loader.ShardError, match=r"damaged at position 0 .*mixwright verify"):
        loader.open_shards(folder)[0]


def test_a_swapped_tar_is_noticed(folder: Path) -> None:
    manifest = storage.read_json(folder / "manifest.json")
    first, second = manifest["shards"][:2]
    first["name"], second["name"] = second["name"], first["name"]
    first["bytes"], second["bytes"] = second["bytes"], first["bytes"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        loader.ShardError, match=r"00001\.tar has 15 sequences from \[15\], .* from \[0\]"
    ):
        loader.open_shards(folder)[0]
