import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shards import ledger, schema, statistics, storage
from tests.shards.stages import finish, folder_of


def test_what_shards_hold(folder: Path, mixture: Any) -> None:
    found = statistics.describe(folder)
    assert found["kind"] == "shards"
    assert (found["sequences"], found["shards"], found["seq_len"]) == (40, 3, 256)
    assert found["bytes"] == sum(path.stat().st_size for path in folder.glob("*.tar"))
    captions = found["corpora"]["captions"]
    rows = [row for row in mixture.rows if row["corpus"] == "captions"]
    total = sum(row["tokens"] for row in rows)
    assert captions["weight"] == 0.45
    assert captions["sequences"] == {"count": 18, "share": 18 / 40}
    assert captions["tokens"]["count"] == total
    assert captions["fill"] == total / (18 * 256)
    assert captions["documents"] == {"count": 36, "share": 36 / 80}
    assert sum(corpus["images"]["share"] for corpus in found["corpora"].values()) == 1
    assert json.loads(json.dumps(found)) == found


def test_sources_and_licences(folder: Path, mixture: Any) -> None:
    found = statistics.describe(folder)
    captions = found["sources"]["captions"]
    assert list(captions) == ["site-0", "site-1"]
    images = sum(row["images"] for row in mixture.rows if row["corpus"] == "captions")
    assert captions["site-0"]["images"] == images and captions["site-1"]["images"] == 0
    assert captions["site-1"]["segments"] == 18
    tokens = sum(sums["tokens"] for sums in captions.values())
    assert tokens == found["corpora"]["captions"]["tokens"]["count"]
    assert found["licences"]["text"].keys() == {"CC-BY-4.0", ""}


def test_histograms(folder: Path, mixture: Any) -> None:
    histograms = statistics.describe(folder)["histograms"]
    assert histograms["images"] == {
        "captions": [0, 9, 0, 9],
        "interleaved": [0, 9, 9, 0],
        "text": [4, 0, 0, 0],
    }
    assert histograms["token_edges"][-1] == 256
    lengths = [row["tokens"] for row in mixture.rows if row["corpus"] == "text"]
    edge = histograms["token_edges"][1]
    due = [sum(int(n // edge) == k for n in lengths) for k in range(statistics.TOKEN_BINS)]
    assert histograms["tokens"]["text"] == due


def documents() -> list[dict[str, Any]]:
    image = schema.image_part("http://a.example/1.jpg", "a cat")
    rows = [
        schema.document("web", "http://a.example", [schema.text_part("héllo"), image, image]),
        schema.document("web", "http://b.example", [schema.text_part("abc")], licence="CC0"),
        schema.document("books", None, [schema.text_part("")]),
    ]
    rows[0]["scores"] = [("clip", 0.25), ("quality", 0.5)]
    rows[1]["scores"] = [("quality", 0.75)]
    rows[1]["language"] = "en"
    return rows


def test_what_documents_hold(tmp_path: Path) -> None:
    table = schema.documents(documents())
    storage.write_table(tmp_path / "part-00000.parquet", table.slice(0, 1))
    storage.write_table(tmp_path / "part-00001.parquet", table.slice(1))
    found = statistics.describe(tmp_path)
    assert found == {
        "kind": "documents",
        "files": 2,
        "documents": 3,
        "texts": 3,
        "characters": 8,
        "images": 2,
        "documents_with_images": 1,
        "sources": {"web": 2, "books": 1},
        "licences": {"": 2, "CC0": 1},
        "languages": {"": 2, "en": 1},
        "scores": {
            "clip": {"count": 1, "p5": 0.25, "median": 0.25, "p95": 0.25},
            "quality": {"count": 2, "p5": 0.5125, "median": 0.625, "p95": 0.7375},
        },
    }
    assert statistics.describe(tmp_path / "part-00000.parquet")["documents"] == 1


def test_no_documents_in_a_file(tmp_path: Path) -> None:
    storage.write_table(tmp_path / "a.parquet", schema.DOCUMENT.empty_table())
    found = statistics.describe(tmp_path / "a.parquet")
    assert (found["documents"], found["characters"], found["scores"]) == (0, 0, {})


def test_what_is_not_ours(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="give a folder of shards"):
        statistics.describe(tmp_path)
    storage.write_table(tmp_path / "a.parquet", schema.pa.table({"id": ["a"]}))
    with pytest.raises(ValueError, match="holds no documents: it has no column language"):
        statistics.describe(tmp_path)


def test_what_a_run_did(tmp_path: Path, folder: Path) -> None:
    rows = schema.documents(documents())
    drops = ledger.drop_rows(rows, [None, None, "too_short"])
    run = tmp_path / "run"
    sizes: dict[str, Any] = {"read": {"document": 3}, "kept": {"document": 2}}
    ledger.write_part(folder_of(run, "text/clean"), 0, rows.slice(0, 2), drops, **sizes)
    finish(run, "text/clean")
    found = statistics.describe(run)
    assert found["kind"] == "run" and found["shards"] is None
    (line,) = found["stages"]
    assert line["stage"] == "text/clean" and line["kept"] == {"document": 2}
    assert line["dropped"] == {"document": {"too_short": 1}}

    assert statistics.describe(run / "text/clean")["documents"] == 2

    (run / "shards").mkdir()
    folder.rename(folder_of(run, "shards"))
    finish(run, "shards")
    assert statistics.describe(run)["shards"]["sequences"] == 40
    assert statistics.describe(run / "shards") == statistics.describe(folder_of(run, "shards"))


def test_statistics_import_no_engine_and_no_model_library() -> None:
    code = (
        "import sys, shards.statistics\n"
        "heavy = {'torch', 'apache_beam', 'transformers', 'datasets', 'pandas', 'PIL'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
