"""Main-text extraction beside Resiliparse and trafilatura, against text marked by hand.

Precision and recall over the four-word shingles of a page (bags, so that a repeated line counts),
averaged over pages; F1 is of the averages, as in the public article-extraction-benchmark. Speed is
pages a CPU second, from bytes to text, parsing included; the fastest of some rounds. Each extractor
runs in a process of its own, trafilatura in an environment of its own; Resiliparse is called as the
public benchmark does, with its main-content mode, and with formatting.

The pages: tests/data/extraction, or `--folder` with pages of your own: NAME.html (or .html.gz) and
NAME.txt beside it, or ground-truth.json and html/ID.html.gz as that benchmark has them. Where
MIXWRIGHT_DEV_DATA names a folder of development data, the pages of it that marks.tsv knows join.

    make bench-extraction                                # about a minute
    make bench-extraction ARGS=--quick                   # a few seconds, without trafilatura
    make bench-extraction ARGS="--folder ~/article-extraction-benchmark"

The last line is one JSON object; its ratios are above 1 where this project is better.
"""

import argparse
import csv
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import checkout

PAGES = checkout.ROOT / "tests" / "data" / "extraction"
MARKS = PAGES / "marks.tsv"
TRAFILATURA = ["trafilatura==2.3.1", "lxml_html_clean==0.4.6"]
TOKEN = re.compile(r"\w+")
SHINGLE = 4
ONE_TO_ONE = "latin-1"  # any bytes are a string of it: JSON has no bytes
ROUNDS, QUICK_ROUNDS = 5, 2
TURNS = 4


@dataclass(frozen=True)
class Sample:
    """A page, the text that belongs to it, and the group that it is reported with."""

    name: str
    group: str
    html: bytes
    text: str


def samples(folder: Path) -> list[Sample]:
    """The pages of a folder in any of its three forms."""
    if (folder / "ground-truth.json").exists():
        return list(_benchmark_pages(folder))
    if (folder / "pages.tsv").exists():
        return list(_listed_pages(folder))
    return [
        Sample(
            path.name, "pages", _read(path), path.parent.joinpath(_stem(path) + ".txt").read_text()
        )
        for path in sorted([*folder.glob("*.html"), *folder.glob("*.html.gz")])
    ]


def _benchmark_pages(folder: Path) -> Iterator[Sample]:
    truth = json.loads((folder / "ground-truth.json").read_text(encoding="utf-8"))
    for name, fields in sorted(truth.items()):
        html = _read(folder / "html" / f"{name}.html.gz")
        yield Sample(name, "articles", html, fields.get("articleBody", ""))


def _listed_pages(folder: Path) -> Iterator[Sample]:
    with (folder / "pages.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            page = folder / "pages" / f"{row['page']}.html"
            text = page.with_suffix(".txt").read_text(encoding="utf-8")
            yield Sample(row["page"], f"{row['kind']}, {row['half']}", page.read_bytes(), text)


def development_pages(marks: Path, folder: Path) -> Iterator[Sample]:
    """The pages below `folder` whose lines of main text `marks` has; absent ones are left out.

    Raises:
        ValueError: a page, or the lines that Resiliparse cuts it into, are not those marked.
    """
    with marks.open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            page = folder / row["path"]
            if page.exists():
                html = page.read_bytes()
                text = _marked(row, html)
                yield Sample(row["path"], f"{row['kind']}, {row['half']}", html, text)


def _marked(row: Mapping[str, str], html: bytes) -> str:
    lines = all_lines(html)
    if (sha256(html).hexdigest(), len(lines)) != (row["sha256"], int(row["of"])):
        raise ValueError(f"{row['path']}: this is not the page that was marked")
    ranges = (part.partition("-") for part in row["lines"].split(","))
    spans = ((int(first) - 1, int(last or first)) for first, _, last in ranges)
    return "\n".join(line for start, end in spans for line in lines[start:end])


def all_lines(html: bytes) -> list[str]:
    """The whole text of a page, by line; lists without bullets or numbers."""
    from resiliparse.extract.html2text import extract_plain_text

    text: str = extract_plain_text(_decoded(html), preserve_formatting=True, list_bullets=False)
    return text.splitlines()


def _decoded(html: bytes) -> str:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    text: str = bytes_to_str(html, detect_encoding(html, from_html_meta=True) or "utf-8")
    return text


def _read(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".html")


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """The bag of runs of `SHINGLE` words; a shorter text is one run."""
    tokens = TOKEN.findall(text)
    runs = max(1, len(tokens) - SHINGLE + 1) if tokens else 0
    return Counter(tuple(tokens[i : i + SHINGLE]) for i in range(runs))


def precision_recall(true: str, found: str) -> tuple[float, float]:
    """Of `found` that is in `true`, and of `true` that is in `found`; 1 where both are empty."""
    wanted, got = shingles(true), shingles(found)
    both = (wanted & got).total()
    if not wanted and not got:
        return 1.0, 1.0
    return both / got.total() if got else 0.0, both / wanted.total() if wanted else 0.0


def scores(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Averages of precision and of recall, and the F1 of these averages."""
    precision = statistics.mean(p for p, _ in pairs)
    recall = statistics.mean(r for _, r in pairs)
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def extractor(name: str) -> Callable[[bytes], str]:
    """From bytes to text by `name`; imports what it needs."""
    if name == "trafilatura":
        import trafilatura

        return lambda html: trafilatura.extract(html, include_comments=False) or ""
    if name == "resiliparse":
        return _resiliparse()
    from pipelines.reading.prose import main_text

    return main_text


def _resiliparse() -> Callable[[bytes], str]:
    from resiliparse.extract.html2text import extract_plain_text

    return lambda html: extract_plain_text(
        _decoded(html), preserve_formatting=True, main_content=True
    )


def run(name: str, pages: Mapping[str, bytes], rounds: int) -> dict[str, Any]:
    """Texts by page and the fewest CPU seconds of `rounds`; in the process that calls it."""
    extract = extractor(name)
    seconds: list[float] = []
    for _ in range(rounds):
        start = time.process_time()
        texts = {page: extract(html) for page, html in pages.items()}
        seconds.append(time.process_time() - start)
    return {"texts": texts, "seconds": min(seconds)}


def measured(name: str, pages: Sequence[Sample], rounds: int) -> dict[str, Any]:
    """`run` in a process of its own."""
    command = [str(_python(name)), __file__, "--run", name, "--rounds", str(rounds)]
    given = json.dumps({page.name: page.html.decode(ONE_TO_ONE) for page in pages}).encode()
    process = subprocess.run(command, check=True, input=given, stdout=subprocess.PIPE)
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def in_turns(
    names: Sequence[str], pages: Sequence[Sample], rounds: int
) -> dict[str, dict[str, Any]]:
    """The fastest of each one's turns: a slow spell of the machine is then in nobody's figure."""
    turns = [{name: measured(name, pages, rounds) for name in names} for _ in range(TURNS)]
    return {name: min((t[name] for t in turns), key=lambda r: r["seconds"]) for name in names}


def _python(name: str) -> Path:
    if name != "trafilatura":
        return Path(sys.executable)
    import peers

    return peers.environment("trafilatura", TRAFILATURA)


def report(name: str, result: dict[str, Any], pages: Sequence[Sample]) -> dict[str, float]:
    """Prints a line for each group of pages and one for all; returns that of all."""
    groups: dict[str, list[tuple[float, float]]] = {}
    for page in pages:
        pair = precision_recall(page.text, result["texts"][page.name])
        groups.setdefault(page.group, []).append(pair)
    speed = len(pages) / result["seconds"]
    for group, pairs in groups.items():
        print(_line(name, group, len(pairs), scores(pairs)))
    total = scores([pair for pairs in groups.values() for pair in pairs])
    print(_line(name, "all", len(pages), total) + f"  {speed:7.0f} pages/CPU s")
    return total | {"speed": speed}


def _line(name: str, group: str, count: int, score: dict[str, float]) -> str:
    figures = "  ".join(f"{key} {score[key]:.3f}" for key in ("precision", "recall", "f1"))
    return f"{name:12} {group:20} {count:4} pages  {figures}"


def summary(totals: dict[str, dict[str, float]]) -> dict[str, float]:
    """The figures of this project, and its ratios to the others (errors for F1: theirs / ours)."""
    ours = totals["mixwright"]
    result = {key: round(value, 4) for key, value in ours.items()}
    for peer, theirs in totals.items():
        if peer != "mixwright":
            result[f"{peer}_f1"] = round(theirs["f1"], 4)
            result[f"{peer}_f1_error_ratio"] = round((1 - theirs["f1"]) / (1 - ours["f1"]), 3)
            result[f"{peer}_speed_ratio"] = round(ours["speed"] / theirs["speed"], 3)
    return result


def _joining(folder: Path) -> list[Sample]:
    data = os.environ.get("MIXWRIGHT_DEV_DATA")
    if folder != PAGES or data is None:
        return []
    pages = list(development_pages(MARKS, Path(data)))
    print(f"{len(pages)} pages of development data")
    return pages


def main() -> None:
    """Measures, prints the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=PAGES)
    parser.add_argument("--quick", action="store_true", help="without trafilatura, fewer rounds")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--run", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    if options.run:
        given = {name: html.encode(ONE_TO_ONE) for name, html in json.load(sys.stdin).items()}
        print(json.dumps(run(options.run, given, rounds)))
        return
    names = ["mixwright", "resiliparse", *([] if options.quick else ["trafilatura"])]
    pages = [*samples(options.folder), *_joining(options.folder)]
    found = in_turns(names, pages, rounds)
    totals = {name: report(name, found[name], pages) for name in names}
    print(json.dumps(summary(totals)))


if __name__ == "__main__":
    main()
