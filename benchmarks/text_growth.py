"""What a page costs on the whole way from a crawl to shards as the crawl grows, and in what memory.

Pages are those of benchmarks/corpus.py, with planted copies, in the frames of real pages. A size is
one `mixwright run` of a recipe, FineWeb's unless another is named: WARC files are read, prose is
extracted, filtered, edited, deduplicated, masked, packed and written to shards. CPU is that of all
processes, start-up included; memory is what they hold together, and the largest of them alone.
Which stage grows is told by the time that each says it took of its workers.

Pages are made once and stay in --folder; a run's output is removed when it is measured.

    make bench-text_growth                             # 10,000 and 100,000 pages: minutes
    make bench-text_growth ARGS=--quick                # less than a minute, and says little
    make bench-text_growth ARGS="--pages 100000 1000000 --folder FOLDER"    # hours; 40 GB

The last line is one JSON object: `growth_cost_ratio` is the cost a page at the last size but one
over that at the last, so that 1 is linear and below 1 is worse.
"""

import argparse
import html
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import checkout
import corpus
from scale import Frame, read_sample, write_warc
from text_dedupe import Usage, grown, measured

from shards.ledger import STAGE_FILE, stage_folders
from shards.storage import read_json

RECIPE = checkout.ROOT / "configs" / "text-fineweb.yaml"
PART = 2500  # pages a WARC file, about as many as hold prose in one of Common Crawl's
PAGES, QUICK = [10_000, 100_000], [250, 500]

Seconds = dict[str, float]  # by stage


@cache
def frames() -> list[Frame]:
    """Real pages without their paragraphs."""
    return read_sample().frames


def page(number: int) -> tuple[str, str]:
    """URL and HTML of made page `number`; a copy stands in its original's frame."""
    made = corpus.document(number)
    paragraphs = (f"<p>{html.escape(text)}</p>" for text in made["text"].split("\n\n"))
    frame = frames()[made["group"] % len(frames())]
    return made["url"], "\n".join([frame.head, *paragraphs, frame.foot])


def make_pages(folder: Path, pages: int, workers: int) -> str:
    """A pattern of WARC files of the first `pages` pages."""
    crawl = folder / f"crawl-{pages}"
    crawl.mkdir(parents=True, exist_ok=True)
    firsts = range(0, pages, PART)
    paths = [crawl / f"pages-{first // PART:06d}.warc.gz" for first in firsts]
    numbers = [range(first, min(first + PART, pages)) for first in firsts]
    with ProcessPoolExecutor(workers) as pool:
        list(pool.map(_make_file, paths, numbers))
    return f"{crawl}/*.warc.gz"


def _make_file(path: Path, numbers: range) -> None:
    write_warc(path, map(page, numbers))


def run(folder: Path, recipe: Path, pages: int, workers: int) -> tuple[Usage, Seconds]:
    """A `mixwright run` over so many pages; and the seconds of its stages."""
    files, out = make_pages(folder, pages, workers), folder / f"run-{pages}"
    shutil.rmtree(out, ignore_errors=True)
    settings = {"corpora.text.read.files": [files], "out": str(out), "runner.workers": workers}
    given = [f"--set={name}={json.dumps(value)}" for name, value in settings.items()]
    used = measured([sys.executable, "-m", "pipelines.cli", "run", recipe, *given])
    about = {name: read_json(place.parent / STAGE_FILE) for name, place in stage_folders(out)}
    shutil.rmtree(out)
    return used, {name: float(said["seconds"]) for name, said in about.items()}


def growth(folder: Path, recipe: Path, sizes: Sequence[int], workers: int) -> dict[str, Any]:
    """Cost a page, and memory, by size."""
    stages: dict[int, Seconds] = {}

    def used(size: int) -> Usage:
        usage, stages[size] = run(folder, recipe, size, workers)
        return usage

    figures = grown("pages", sizes, used)
    print_stages(stages)
    return figures


def print_stages(stages: Mapping[int, Seconds]) -> None:
    """Milliseconds a page by stage and size."""
    print(f"\n{'stage, ms a page':<26}" + "".join(f"{size:>12,}" for size in stages))
    for name in next(iter(stages.values())):
        cells = (f"{1000 * found[name] / size:>12.3f}" for size, found in stages.items())
        print(f"  {name:<24}" + "".join(cells))


def main() -> None:
    """Read the options and print one JSON object of figures as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} pages")
    parser.add_argument("--pages", type=int, nargs="+", default=PAGES, help="sizes, two or more")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--folder", type=Path, help="where to keep pages (default: nowhere)")
    options = parser.parse_args()
    sizes = QUICK if options.quick else sorted(options.pages)
    with tempfile.TemporaryDirectory() as fresh:
        folder = options.folder or Path(fresh)
        print(json.dumps(growth(folder, options.recipe, sizes, options.workers)))


if __name__ == "__main__":
    main()
