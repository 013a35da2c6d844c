"""What `inspect` prints: every number of a description, in columns."""

from typing import Any

from pipelines.config.recipe import Recipe
from pipelines.terminal.inspection import render
from shards import ledger
from shards.loader import open_shards
from shards.statistics import describe


def corpus(weight: float, fill: float, **sums: tuple[int, float]) -> dict[str, Any]:
    cells = {name: {"count": n, "share": share} for name, (n, share) in sums.items()}
    return {"weight": weight, "fill": fill, **cells}


SHARDS = {
    "kind": "shards",
    "sequences": 12_345,
    "shards": 3,
    "bytes": 2_500_000,
    "seq_len": 512,
    "image_tokens": 16,
    "max_images": 4,
    "tokenizer": {"name": "mixwright-8k", "sha256": "0"},
    "seed": 7,
    "stopped_by": "text",
    "corpora": {
        "text": corpus(
            0.1,
            0.987,
            sequences=(1234, 0.1),
            tokens=(600_000, 0.0951),
            images=(0, 0.0),
            documents=(99, 0.5),
        )
    },
    "weighted": {"text": {"web": {"weight": 0.75, "sequences": 925, "share": 925 / 1234}}},
    "sources": {"text": {"web": {"segments": 1500, "tokens": 600_000, "images": 0}}},
    "licences": {"text": {None: {"segments": 1500, "tokens": 600_000, "images": 0}}},
}


def test_shards_in_a_table():
    lines = list(render(SHARDS))
    assert lines[0] == "12,345 sequences of 512 tokens in 3 shards, 2.5 MB; text ran out first"
    assert lines[1] == (
        "an image is 16 tokens, at most 4 a sequence; tokenizer mixwright-8k, seed 7"
    )
    head = "corpus asked sequences tokens images documents fill"
    assert lines[3].split() == head.split()
    row = "text 10.0% 1,234 10.00% 600,000 9.51% 0 0.00% 99 50.00% 98.7%"
    assert lines[4].split() == row.split()
    assert lines[5].split() == ["web", "75.0%", "925", "74.96%", "of", "text"]
    assert lines[6:] == [
        "\nsources",
        "  text           1,500 segments     600,000 tokens  web",
        "\nlicences",
        "  text           1,500 segments     600,000 tokens  not stated",
    ]
    assert len(lines[3]) == len(lines[4])


def test_a_run_has_a_line_for_each_stage_and_unit_and_then_its_shards():
    stage = {
        "stage": "captions/download",
        "read": {"image": 1000, "document": 900},
        "kept": {"image": 990},
        "dropped": {"image": {"http_404": 4, "timeout": 5}, "document": {"http_404": 899}},
        "errors": {"image": {"unreadable": 1}, "document": {"unreadable": 1}},
    }
    head, documents, images = render({"kind": "run", "stages": [stage], "shards": None})
    assert head.split() == ["stage", "unit", "read", "kept", "dropped", "errors"]
    assert documents.split() == ["captions/download", "document", "900", "0", "899", "1"]
    assert images.split() == ["captions/download", "image", "1,000", "990", "9", "1"]
    assert len(head) == len(documents) == len(images)
    both = list(render({"kind": "run", "stages": [stage], "shards": SHARDS}))
    assert both == [head, documents, images, "", *render(SHARDS)]


def test_documents_are_counted_by_name():
    described = {
        "kind": "documents",
        "documents": 12_000,
        "languages": {"en": 11_000, None: 1_000},
        "scores": {"language": {"count": 11_000, "median": 0.98765}},
    }
    assert [line.split() for line in render(described)] == [
        ["documents", "12,000"],
        ["languages"],
        ["en", "11,000"],
        ["not", "stated", "1,000"],
        ["scores"],
        ["language", "count", "11,000,", "median", "0.9877"],
    ]


def test_a_real_run_is_told_in_the_numbers_of_its_ledger(small_run: Recipe):
    lines = list(render(describe(small_run.out)))
    found = {tuple(line.split()[:2]): line.split()[2:] for line in lines[1 : lines.index("")]}
    expected = {}
    for name, folder in ledger.stage_folders(small_run.out):
        counts = ledger.read_counts(folder)
        for unit in counts.read:
            numbers = (counts.read[unit], counts.kept.get(unit, 0), counts.lost(unit), 0)
            expected[name, unit] = [str(n) for n in numbers]
    assert found == expected
    sums = open_shards(small_run.out / "shards").manifest["corpora"]
    for line in lines:
        if line.split() and line.split()[0] in sums and "%" in line:
            cells = line.replace(",", "").split()
            names = ("sequences", "tokens", "images", "documents")
            assert cells[2:10:2] == [str(sums[cells[0]][name]) for name in names]
