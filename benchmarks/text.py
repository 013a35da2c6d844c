"""The text corpus beside datatrove, with which FineWeb was made: the same rules on the same pages.

Filters: language, Gopher's repetition and quality, C4 with its edits, FineWeb, in that order and
with FineWeb's thresholds, each side in a process of its own: CPU seconds a document without
start-up, peak memory, what is kept, and on how many documents each rule, run by itself on all of
them, decides alike; with C4's bad words, for which some words that few documents have are the list.
Both sides read the same fastText model. Ours run as the pipeline runs them, on Arrow tables of
`ROWS` documents. Then, unless it is to be quick, deduplication, by `benchmarks/text_dedupe.py`.

The documents: prose of the bundled sample's pages, or of `--documents`; documents made of it with
planted duplicates; and as many that are cut, repeated and broken up so as to be near a limit.

    make bench-text                                    # about ten minutes
    make bench-text ARGS=--quick                       # less than one, once the peer is installed
    make bench-text ARGS="--documents text.jsonl"      # a file or a folder of them, field "text"

The last line is one JSON object; its ratios are above 1 where this project is better.
"""

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import checkout  # noqa: F401  imports of the project come from here
import corpus
import numpy as np
import peers
import pyarrow as pa
import pyarrow.compute as pc

from filters import language, text
from filters.flagged import flagged_share
from filters.prose import Prose
from filters.rules import Mask
from pipelines.config.rules import FilterSpec
from pipelines.lines import edit_documents
from pipelines.reading.prose import main_text
from pipelines.stage import judge
from shards import schema

DATATROVE = ["datatrove[processing]==0.10.1", "spacy==3.8.18"]
ROWS = 1000  # of a part
DOCUMENTS, QUICK = 3000, 200
LISTED = 100  # words on the list of flagged ones
BEFORE_EDITS = [
    FilterSpec(name=name) for name in ("language", "gopher_repetition", "gopher_quality", "c4")
]
FILTERS = [*[spec.name for spec in BEFORE_EDITS], "fineweb"]
EDITS = FilterSpec(name="c4", thresholds={"terminated": False})
AFTER_EDITS = [FilterSpec(name="fineweb")]
# One rule there is two here.
TOGETHER = {
    "language": ("language_not_kept", "language_uncertain"),
    "gopher_too_many_symbols": ("gopher_too_many_hashes", "gopher_too_many_ellipses"),
}


def main() -> None:
    """Compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", default=os.environ.get("MIXWRIGHT_DEV_DATA"))
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} documents")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # this project's own side
    options = parser.parse_args()
    if options.measure:
        measure(*map(Path, options.measure))
        return
    figures = compare_filters(options.documents, QUICK if options.quick else DOCUMENTS)
    if not options.quick:
        import text_dedupe  # whose imports our side of the filters does without

        figures |= text_dedupe.compare()
    print(json.dumps(figures))


def compare_filters(source: str | None, n: int) -> dict[str, float]:
    """Both sides over the same `n` documents."""
    with tempfile.TemporaryDirectory() as folder:
        read, words, ours, theirs = (Path(folder, name) for name in ("read", "words", "us", "them"))
        texts = list(documents(source, n))
        read.write_text("".join(json.dumps({"text": value}) + "\n" for value in texts))
        words.write_text("\n".join(rare_words(texts)))
        python = peers.environment("datatrove", DATATROVE)
        script = Path(__file__).parent / "text_datatrove.py"
        run([sys.executable, __file__, "--measure", read, words, ours])
        run([python, script, read, language.MODEL, words, theirs])
        return report(n, json.loads(ours.read_text()), json.loads(theirs.read_text()))


def run(command: list[Any]) -> None:
    """Run a side in a process of its own, silent if it succeeds."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{command[0]} {command[1]} failed:\n{done.stderr}")


def documents(source: str | None, n: int) -> Iterator[str]:
    """A third real texts, as far as they go, a third near limits, and made ones."""
    real = list(islice(jsonl_texts(Path(source)) if source else sample_texts(), n // 3))
    yield from real
    made = [row["text"] for row in corpus.documents(n - 2 * len(real))]
    yield from made
    yield from (near_limit(value, i) for i, value in enumerate(islice(real + made, len(real))))


def jsonl_texts(place: Path) -> Iterator[str]:
    """The texts of a file or of the files of a folder."""
    for path in sorted(place.rglob("*.jsonl")) if place.is_dir() else [place]:
        with path.open() as lines:
            yield from (row["text"] for row in map(json.loads, lines) if "text" in row)


def sample_texts() -> Iterator[str]:
    """The main text of the bundled pages."""
    for path in sorted((corpus.SAMPLE / "www").rglob("*.html")):
        if value := main_text(path.read_text(errors="replace")):
            yield value


def near_limit(value: str, number: int) -> str:
    """A text changed in one of four ways, by so much that about half of them pass."""
    draw = int.from_bytes(blake2b(str(number).encode(), digest_size=4).digest(), "big")
    amount = draw // 4 % 1000 / 1000
    words = value.split(" ")
    if draw % 4 == 0:  # few words and sentences
        return " ".join(words[: 20 + int(100 * amount)])
    if draw % 4 == 1:  # repeated runs of words
        return value + " " + " ".join(words[: int(len(words) * amount / 2)])
    if draw % 4 == 2:  # words without a letter
        return " ".join(
            f"{i}" if (i * 37 + draw) % 100 < 40 * amount else word for i, word in enumerate(words)
        )
    # short lines, many without an end
    size = 3 + int(20 * amount)
    return "\n".join(" ".join(words[i : i + size]) for i in range(0, len(words), size))


def rare_words(texts: list[str]) -> list[str]:
    """Some words and pairs of words that few texts have, in the place of a list of bad ones."""
    runs = (pair for value in texts for pair in set(re.findall(r"[a-z]+(?: [a-z]+)?", value)))
    rare = sorted(
        run for run, count in Counter(runs).items() if count <= max(1, len(texts) // 1000)
    )
    return rare[:: max(1, len(rare) // LISTED)]


def measure(read: Path, words: Path, result: Path) -> None:
    """Our side: the chain by time, then each rule by itself."""
    texts = list(jsonl_texts(read))
    batches = [table(texts[i : i + ROWS], i) for i in range(0, len(texts), ROWS)]
    chain(table(["What is loaded on first use is loaded now."], 0))
    started = time.process_time()
    kept = [i for batch in batches for i in chain(batch)]
    figures = {
        "seconds": time.process_time() - started,
        "peak_kilobytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        "kept": kept,
        "dropped": dropped(batches) | {"flagged_words_too_many": flagged(texts, words)},
    }
    result.write_text(json.dumps(figures))


def table(texts: list[str], first: int) -> pa.Table:
    """A part of documents, numbered from `first`."""
    return schema.documents(
        schema.document("bench", None, [schema.text_part(value)], position=first + i)
        for i, value in enumerate(texts)
    )


def chain(batch: pa.Table) -> list[int]:
    """The numbers of the documents that every step keeps."""
    kept = passed(identified(batch), BEFORE_EDITS)
    (edited, _), _ = edit_documents(kept, EDITS)
    provenance = passed(edited, AFTER_EDITS)["provenance"]
    numbers: list[int] = pc.struct_field(provenance, "position").to_pylist()
    return numbers


def passed(batch: pa.Table, filters: list[FilterSpec]) -> pa.Table:
    """The documents that filters keep."""
    return batch.filter(judge(batch, filters)["reason"].is_null())


def identified(batch: pa.Table) -> pa.Table:
    """Documents with their language."""
    names, sure = language.identify(schema.texts(batch))
    named = schema.with_column(batch, "language", pa.array(names, pa.string()))
    return schema.with_score(named, "language", sure)


def dropped(batches: list[pa.Table]) -> dict[str, list[int]]:
    """Which documents each rule drops, whatever the others say."""
    found: dict[str, list[Mask]] = defaultdict(list)
    for batch in map(identified, batches):
        view = Prose(batch)
        for name in FILTERS:
            for rule in text.FILTERS[name](view):
                found[rule.reason].append(rule.drops())
    masks = {reason: np.concatenate(parts) for reason, parts in found.items()}
    for name, reasons in TOGETHER.items():
        masks[name] = np.any([masks[reason] for reason in reasons], axis=0)
    return {reason: np.flatnonzero(mask).tolist() for reason, mask in masks.items()}


def flagged(texts: list[str], words: Path) -> list[int]:
    """Which texts have a word of the list: for C4, one is too many."""
    shares = flagged_share(texts, words.read_text().splitlines())
    numbers: list[int] = np.flatnonzero(shares > 0).tolist()
    return numbers


def report(n: int, ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, float]:
    """Print both sides, and answer with the figures."""
    alike = {
        reason: 1 - len(set(lost) ^ set(ours["dropped"][reason])) / n
        for reason, lost in theirs["dropped"].items()
    }
    print(f"{'rule':40} {'mixwright drops':>15} {'datatrove drops':>15} {'alike':>8}")
    for reason, lost in theirs["dropped"].items():
        here = len(ours["dropped"][reason])
        print(f"{reason:40} {here:15,} {len(lost):15,} {alike[reason]:8.2%}")
    print(f"\n{'':12} {'CPU ms a document':>18} {'peak MB':>8} {'kept of':>8} {n:,}")
    for name, side in (("mixwright", ours), ("datatrove", theirs)):
        milliseconds, megabytes = 1000 * side["seconds"] / n, side["peak_kilobytes"] / 1024
        print(f"{name:12} {milliseconds:18.2f} {megabytes:8.0f} {len(side['kept']):8,}")
    return {
        "documents": n,
        "filters_cpu_ratio": theirs["seconds"] / ours["seconds"],
        "filters_memory_ratio": theirs["peak_kilobytes"] / ours["peak_kilobytes"],
        "filters_least_agreement": min(alike.values()),
        "filters_kept_agreement": 1 - len(set(ours["kept"]) ^ set(theirs["kept"])) / n,
    }


if __name__ == "__main__":
    main()
