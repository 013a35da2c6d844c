"""The report says what the ledger says, and nothing from the web gets out of its text."""

import hashlib
import io
import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from shards import images, ledger, schema, statistics, storage
from shards.report.dropped import DROPPED
from shards.report.page import write_report
from shards.report.pictures import Pictures
from tests.shards.browser import visit
from tests.shards.conftest import WEIGHTS, Mixture
from tests.shards.stages import finish, folder_of
from tests.shards.test_measures import LOREM, SHARE, WORDS, write_measures

EVIL = '"><script>alert("x")</script><img src=x onerror=alert(1)>'
EVIL_URLS = ["javascript:alert(1)", "data:text/html,<script>alert(2)</script>", "//evil.example/"]
TAR = "store/host-00000.tar"
GOOD_URL = "https://pictures.example/ok.png?a=1&b=2"
REASONS = {"caption_too_short": 3, "caption_boilerplate": 1}


def png(number: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((90 + number, 70), 80 + number).save(out, "PNG")
    return out.getvalue()


def write_stage(
    run: Path, name: str, kept: pa.Table, drops: list[dict[str, Any]], config: Any = None
) -> None:
    read = {"document": kept.num_rows + len(drops)}
    rows = pa.Table.from_pylist(drops, schema=schema.DROP)
    counts = {"document": kept.num_rows}
    ledger.write_part(folder_of(run, name), 0, kept, rows, read=read, kept=counts)
    finish(run, name, config=config)


def pair(number: int, url: str, text: str, sha256: str | None, score: float) -> dict[str, Any]:
    image = schema.image_part(url, sha256=sha256) | {"score": score}
    row = schema.document("captions", None, [image, schema.text_part(text)], position=number)
    return row | {"licence": EVIL}


@pytest.fixture
def run(folder: Path) -> Path:
    """A run with two corpora, hostile documents and the shards of `folder`."""
    run = folder.parent / "run"
    bodies = [png(number) for number in range(5)]
    names = [hashlib.sha256(body).hexdigest() for body in bodies]
    urls = [*EVIL_URLS, GOOD_URL, "http://pictures.example/4.png"]
    download = folder_of(run, "captions/download")
    fetched = zip(urls, bodies, [None] * 5, strict=True)
    index = images.store_images(fetched, download / TAR, TAR)
    storage.write_table(download / "index" / "part-00000.parquet", index)
    pairs = schema.documents(
        pair(i, urls[i], EVIL if i == 0 else f"picture {i}", names[i], 0.1 * i) for i in range(5)
    )
    lost = [
        ledger.drop_row(pair(9 + i, EVIL_URLS[i % 3], f"{EVIL} {i}", names[i], 0), reason)
        | {"detail": EVIL}
        for i, reason in enumerate(r for r, n in REASONS.items() for _ in range(n))
    ]
    write_stage(run, "captions/download", pairs, lost)
    spec = {"name": "image_similarity", "thresholds": {"min": 0.15}}
    low = [ledger.drop_row(row, "image_low_similarity") for row in pairs.to_pylist()[:2]]
    write_stage(run, "captions/filter_images-2", pairs.slice(2), low, [spec])
    page = schema.document(
        "web",
        EVIL_URLS[0],
        [schema.text_part(EVIL), schema.image_part(GOOD_URL, EVIL, names[3])],
        licence=EVIL,
    )
    write_stage(run, "interleaved/extract", schema.documents([page | {"language": EVIL}]), [])
    (run / "shards").mkdir()
    folder.rename(folder_of(run, "shards"))
    finish(run, "shards")
    return run


class Page(HTMLParser):
    """The elements of a page, its text, and the cells of its table rows."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.in_cell = False
        self.text = ""
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.in_cell = False

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.in_cell:
            self.rows[-1][-1] += " ".join(data.split())

    def row(self, first: str) -> list[str]:
        return next(row for row in self.rows if row and row[0] == first)

    def labels(self) -> list[str]:
        return [str(attrs["aria-label"]) for _, attrs in self.tags if "aria-label" in attrs]


def test_counts_are_those_of_the_ledger(run: Path) -> None:
    page = Page(write_report(run))
    counts = ledger.read_counts(folder_of(run, "captions/download"))
    assert (counts.read["document"], counts.kept["document"]) == (9, 5)
    assert page.row("downloaddocuments")[2:] == ["9", "5", "4", "0", "✓ adds up"]
    assert page.row("filter_images-2documents")[2:] == ["5", "3", "2", "0", "✓ adds up"]
    for reason, n in REASONS.items():
        assert f"{reason}{n}" in page.row("downloaddocuments")[1]
        assert f"{reason} {n} document" in " ".join(page.text.split())


def test_what_is_only_reported_has_a_group_of_its_own(run: Path) -> None:
    """Of two evaluation sets one drops documents, the other reports them."""
    rows = [
        schema.document("web", f"https://a.example/{i}", [schema.text_part(f"{name} words {i}")])
        for i, name in enumerate(["lost"] + ["only"] * 9)
    ]
    ledgers = [ledger.drop_row(row, "contaminated", detail="gsm8k: a b c") for row in rows]
    ledgers = ledgers[:1] + [row | {"kind": ledger.REPORTED} for row in ledgers[1:]]
    counts = {"document": 10}, {"document": 9}
    drops = pa.Table.from_pylist(ledgers, schema=schema.DROP)
    out = folder_of(run, "text/decontaminate")
    ledger.write_part(out, 0, schema.documents(rows[1:]), drops, read=counts[0], kept=counts[1])
    finish(run, "text/decontaminate")
    page = Page(write_report(run))
    text = " ".join(page.text.split())
    assert page.row("decontaminatedocuments")[2:] == ["10", "9", "1", "0", "✓ adds up"]
    dropped, reported = text.split("contaminated reported, not dropped 9 documents")
    assert "contaminated 1 document lost words 0" in dropped
    assert "only words" not in dropped.partition("contaminated 1 document lost")[2]
    assert reported.count("only words") == DROPPED
    anchors = [attrs["id"] for _, attrs in page.tags if str(attrs.get("id")).startswith("drop-")]
    assert len(set(anchors)) == len(anchors)


def test_an_account_that_does_not_add_up_is_shown(run: Path) -> None:
    file = run / "captions/filter_images-2" / ledger.STAGE_FILE
    about = storage.read_json(file)
    about["counts"]["read"] = {"document": 7}
    storage.write_json(file, about)
    assert Page(write_report(run)).row("filter_images-2documents")[-1] == "✗ 2 missing"


def test_requested_and_achieved_shares(run: Path) -> None:
    labels = Page(write_report(run)).labels()
    assert "requested: captions 45.0 %, interleaved 45.0 %, text 10.0 %" in labels
    corpora = statistics.describe_shards(run / "shards")["corpora"]
    for key in ("sequences", "tokens", "images", "documents"):
        shares = [f"{name} {c[key]['share'] * 100:.1f} %" for name, c in corpora.items()]
        assert f"{key}: {', '.join(shares)}" in labels


def test_prefix_deviation_is_the_worst_over_all_prefixes(run: Path, mixture: Mixture) -> None:
    order = [row["corpus"] for row in mixture.rows]
    worst = {
        name: max(abs(order[:n].count(name) - weight / 100 * n) for n in range(1, len(order) + 1))
        for name, weight in sorted(WEIGHTS.items())
    }
    expected = ", ".join(f"{name} {value:.2f}" for name, value in worst.items())
    found = [label for label in Page(write_report(run)).labels() if "Deviation" in label]
    assert found == [
        f"Deviation from the requested share by position; worst {expected}; the bound is 1 sequence"
    ]


def test_nothing_from_the_web_becomes_markup(run: Path) -> None:
    file = write_report(run)
    page, source = Page(file), file.read_text(encoding="utf-8")
    assert EVIL in page.text, "the hostile text is shown"
    assert not {"script", "iframe", "object", "form", "base"} & {tag for tag, _ in page.tags}
    for tag, attrs in page.tags:
        assert not [name for name in attrs if name.startswith("on")]
        where = attrs.get("href") or attrs.get("src") or "#"
        allowed = ("data:image/jpeg;base64,",) if tag == "img" else ("#", "https://", "http://")
        assert where.startswith(allowed) or (tag, where) == ("link", "data:,")
        if tag == "a" and not where.startswith("#"):
            assert "noreferrer" in str(attrs["rel"])
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in source
    assert GOOD_URL.replace("&", "&amp;") in source
    assert EVIL in [attrs.get("alt") for tag, attrs in page.tags if tag == "img"]


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    first = write_report(run, run / "a.html").read_bytes()
    assert write_report(run, run / "b.html").read_bytes() == first


def test_a_threshold_is_marked_over_the_scores_before_it(run: Path) -> None:
    page = Page(write_report(run))
    assert "keep from 0.15" in page.text
    assert "captions: 5 values, median 0.2, keep from 0.15" in page.labels()


BOTH = pa.field(EVIL, pa.float32(), metadata={"min": "-1.0", "max": "2.0"})
FREE = pa.field("lines_removed", pa.float32(), metadata={})


def test_what_rules_measured_is_drawn_with_its_bounds(run: Path) -> None:
    rows = [[10.0 * i, float(i == 3), i / 20, 0.5 * i - 3, 1 / (i + 1)] for i in range(11)]
    rows += [[9000.0, None, None, None, None], [5.0, 0.0, 0.0, np.inf, np.nan]]
    columns = [WORDS, LOREM, SHARE, BOTH, FREE]
    write_measures(run, "text/filter", columns, rows[:4], rows[4:])
    page = Page(write_report(run))
    labels = [label for label in page.labels() if "measured" in label]
    assert labels == [
        "too_few_words: 13 measured, median 50, 6 dropped, keep from 50",
        "too_repetitive: 12 measured, median 0.2, 4 dropped, keep up to 0.3",
        f"{EVIL}: 12 measured, median -0.5, 0 dropped, keep from -1, keep up to 2",
        "lines_removed: 12 measured, median 0.167",
    ]
    text = " ".join(page.text.split())
    assert "text/filter: 13 documents, 5 rules" in text
    assert "lorem_ipsum: 1 of 12" in text
    assert ("a", {"href": "#measures"}) in page.tags
    bars = [attrs["class"] for tag, attrs in page.tags if tag == "rect" and "class" in attrs]
    assert {"bar", "bar out"} <= set(bars)


def test_a_run_that_measured_nothing_has_no_section_of_it(run: Path) -> None:
    assert "What rules measured" not in Page(write_report(run)).text


def test_the_first_sequence_of_each_corpus_is_shown_whole(run: Path, mixture: Mixture) -> None:
    text = " ".join(Page(write_report(run)).text.split())
    for corpus in WEIGHTS:
        position = next(i for i, row in enumerate(mixture.rows) if row["corpus"] == corpus)
        row = mixture.rows[position]
        count = f"{len(row['segments'])} documents, {row['images']} images, {row['tokens']} of 256"
        assert f"position {position}: {count}" in text
        for segment in row["segments"]:
            assert segment["parts"][-1]["text"].strip() in text


def test_damaged_pictures_are_left_out_and_counted(run: Path) -> None:
    tar = folder_of(run, "captions/download") / TAR
    tar.write_bytes(b"\0" * tar.stat().st_size)
    shown = "5 pictures could not be shown"
    assert shown in Page(write_report(run)).text


def test_pictures_stop_when_their_room_is_used_up() -> None:
    pictures = Pictures([], room=6000)
    shown = [pictures.show(png(number)) for number in range(4)]
    assert [uri is not None for uri in shown] == [True, False, False, False]
    assert pictures.skipped == 3
    assert len(str(shown[0])) < 6000 * 4 / 3 + 100


def test_training_curve(run: Path) -> None:
    lines = [
        {"step": 0, "held_out_loss": 9.0},
        {"step": 10, "loss": 8.0, "tokens_per_second": 500.0},
        {"step": 20, "loss": 7.5, "tokens_per_second": 700.0},
        {"step": 20, "held_out_loss": 7.75},
    ]
    file = run / "train/metrics.jsonl"
    file.parent.mkdir()
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = Page(write_report(run))
    assert "20 steps, 600 tokens a second" in page.text
    label = "Loss by step; training from 8.000 to 7.500; held-out from 9.000 to 7.750"
    assert label in page.labels()


def test_a_run_that_is_not_mixed_yet(tmp_path: Path) -> None:
    write_stage(tmp_path, "text/extract", schema.documents([]), [])
    page = Page(write_report(tmp_path))
    assert "has not been mixed yet" in page.text
    assert "Nothing was dropped or reported" in page.text


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run\.json"):
        write_report(tmp_path)
    storage.write_json(tmp_path / ledger.RUN_FILE, {"stages": ["text/extract"]})
    with pytest.raises(FileNotFoundError, match="no finished stage"):
        write_report(tmp_path)


def test_time_by_stage(run: Path) -> None:
    page = Page(write_report(run))
    assert page.row("captions/download") == [
        "captions/download",
        "1.5",
        "25.0 %",
        "9 documents",
        "6",
    ]
    assert page.row("shards") == ["shards", "1.5", "25.0 %", "", ""]
    assert page.row("all stages") == ["all stages", "6.0", "", "", ""]
    assert "A core hour costs" not in page.text


def test_cost_by_stage_where_the_run_has_a_price(run: Path) -> None:
    about = storage.read_json(run / ledger.RUN_FILE)
    storage.write_json(run / ledger.RUN_FILE, about | {"core_hour_price": 1200.0})
    page = Page(write_report(run))
    assert page.row("captions/download")[-1] == "$0.5"
    assert page.row("all stages")[-1] == "$2.00"
    assert "A core hour costs $1,200.00" in page.text


def test_it_needs_neither_beam_nor_torch() -> None:
    code = "import sys, shards.report.page; print(*{'apache_beam', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_browser_shows_it_and_finds_nothing_to_complain_of(run: Path, tmp_path: Path) -> None:
    seen = visit(write_report(run), tmp_path)
    assert (seen.console, seen.requests) == ([], [])
    assert not seen.blank


BAD_PAGE = '<script>console.error("boom")</script><img src="http://127.0.0.1:9/x.png">'
STRICT = """<meta http-equiv="Content-Security-Policy" content="default-src 'none'">"""


@pytest.mark.parametrize(
    ("html", "console", "requests"),
    [
        (BAD_PAGE, "boom", ["http://127.0.0.1:9/x.png"]),
        (STRICT + BAD_PAGE, "Content Security Policy", []),
    ],
)
def test_the_check_sees_a_bad_page(
    tmp_path: Path, html: str, console: str, requests: list[str]
) -> None:
    page = tmp_path / "bad.html"
    page.write_text(f"<!doctype html>{html}")
    seen = visit(page, tmp_path)
    assert console in seen.console[0]
    assert seen.requests == requests
    assert seen.blank
