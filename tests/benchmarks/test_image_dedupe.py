"""benchmarks/image_dedupe.py: what is planted, what counts as one picture, and the made looks."""

import importlib
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from filters.looks import LOOK, Limits


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.delenv("MIXWRIGHT_DEV_DATA", raising=False)
    return importlib.import_module("image_dedupe")


def test_variants_are_found_and_pictures_are_told_apart(benchmark: ModuleType) -> None:
    files = [file for file in benchmark.pictures(3) if file[0] == "photo"]
    seen = [benchmark.see((kind, path, i == 0)) for i, (kind, path) in enumerate(files)]
    assert set(seen[0].variants) == set(benchmark.VARIANTS)
    assert not any(each.variants for each in seen[1:])
    figures = benchmark.quality(seen, Limits())
    assert figures["recall_photo"] > 0.7
    assert figures["precision_photo"] == 1
    every = benchmark.quality(seen, Limits(64))  # all pairs with like proportions and colours
    assert every["recall_photo"] >= figures["recall_photo"]


def test_one_picture_is_known_by_its_pixels(benchmark: ModuleType) -> None:
    files = [file for file in benchmark.pictures(3) if file[0] == "photo"]
    seen = [benchmark.see((*file, False)) for file in (*files[:2], files[0])]
    low, high = np.array([0, 0]), np.array([1, 2])
    assert benchmark.one_picture(seen, low, high).tolist() == [False, True]


def test_made_hashes_are_crosses_of_real_ones(benchmark: ModuleType) -> None:
    columns = [[0xF0F0, 0xFF00], [1, 2], [0.0, 0.1], [bytes(256)] * 2]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, LOOK, strict=True)]
    made = benchmark.crosses(pa.table(arrays, schema=LOOK), 50)
    assert all(0xF000 <= each <= 0xFFF0 and each & 0xF == 0 for each in made["phash"].to_pylist())
    assert len(set(made["phash"].to_pylist())) > 10
    figures = benchmark.growth(made, [20, 50], Limits())
    assert set(figures) == {"seconds_20", "seconds_50", "growth_exponent"}
