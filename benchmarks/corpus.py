"""Made corpora of any size: real sentences recombined, with duplicates whose truth is known.

A document is 16 to 40 sentences, about 500 words, drawn by hash from real prose, between the
boilerplate of its host. It depends on nothing but its number and the seed, so that the first
n documents of a larger corpus are the corpus of n. Seven of ten are originals. The others are
copies of an earlier or neighbouring original, on its host and with its boilerplate:

- one an exact copy;
- one with so many words replaced, far apart, that the Jaccard similarity of word 5-grams to the
  original is about 0.95, 0.9, 0.8, 0.7 or 0.5;
- one a link of a chain: three documents, each about 0.85 to the one before, edits upon edits, so
  that the ends are less alike than neighbours.

Prose comes from the bundled sample, or from MIXWRIGHT_DEV_DATA, a folder with text/text.jsonl.

    python benchmarks/corpus.py 3       # print the first documents
"""

import csv
import html
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TypedDict
from urllib.parse import urlsplit

SAMPLE = Path(__file__).parent.parent / "tests" / "data" / "sample"

LEVELS = (0.95, 0.9, 0.8, 0.7, 0.5)  # of near copies, to their originals
BLOCK = 10  # documents of which
ORIGINALS = 7  # are originals and then one is
EXACT, NEAR, LINK = 7, 8, 9  # each of these
LINKS, STEP = 3, 0.85  # of a chain, beside its original, and between neighbours of it
NGRAM = 5
HOSTS = 200
SENTENCES = 16, 40  # of a document
PARAGRAPH_SENTENCES = 4
LONG = 200  # characters from which a paragraph is taken for prose

PARAGRAPH = re.compile(r"<p\b[^>]*>(.*?)</p>", re.DOTALL)
TAG = re.compile(r"<[^>]+>")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


class Document(TypedDict):
    """A made document; `similarity` to the original that `group` numbers, None if it is one."""

    id: str
    text: str
    url: str
    group: int
    similarity: float | None


@dataclass(frozen=True)
class Origin:
    """What a document is made of: an original, and the edits of it."""

    original: int
    similarity: float | None = None  # of each step
    steps: int = 0


def documents(n: int, seed: int = 0) -> Iterator[Document]:
    """The first `n` documents."""
    return (document(number, seed) for number in range(n))


def document(number: int, seed: int = 0) -> Document:
    """Document `number`, whatever others there are."""
    origin = _origin(number, seed)
    host = _drawn(origin.original, "host", seed) % HOSTS
    words = _edited(_words(origin.original, seed), origin, number, seed)
    parts = [_boilerplate(host, "head"), _layout(words), _boilerplate(host, "foot")]
    return {
        "id": f"made-{number:08d}",
        "text": "\n\n".join(parts),
        "url": f"https://host-{host:03d}.example/made/{number}.html",
        "group": origin.original,
        "similarity": origin.similarity,
    }


def _drawn(number: int, what: str, seed: int) -> int:
    """A number that depends on nothing but the document's and what it is drawn for."""
    key = f"{seed}:{what}:{number}".encode()
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def _origin(number: int, seed: int) -> Origin:
    block, place = divmod(number, BLOCK)
    if place < ORIGINALS:
        return Origin(number)
    if place == LINK:
        chain, link = divmod(block, LINKS)
        return Origin(_original(chain * LINKS, "chain", chain, seed), STEP, link + 1)
    if place == EXACT:
        return Origin(_original(block, "exact", number, seed), 1.0)
    return Origin(_original(block, "near", number, seed), LEVELS[block % len(LEVELS)], 1)


def _original(last: int, what: str, number: int, seed: int) -> int:
    """An original of one of the blocks up to `last`."""
    block = _drawn(number, f"{what} block", seed) % (last + 1)
    return block * BLOCK + _drawn(number, f"{what} place", seed) % ORIGINALS


def _words(number: int, seed: int) -> list[str]:
    low, high = SENTENCES
    pool = sentences()
    count = low + _drawn(number, "length", seed) % (high - low + 1)
    chosen = (pool[_drawn(number, f"sentence {i}", seed) % len(pool)] for i in range(count))
    words: list[str] = []
    for i, (first, *rest) in enumerate(chosen):
        words += [first if i % PARAGRAPH_SENTENCES else f"\n\n{first}", *rest]
    return words


def _edited(words: list[str], origin: Origin, number: int, seed: int) -> list[str]:
    """`words` with as many replaced as its steps take, spread evenly; later steps add to earlier.

    A replaced word costs each of two texts of s n-grams n of them, so e edits leave a similarity
    of (s - n e) / (s + n e).
    """
    if not origin.steps or origin.similarity is None:
        return words
    similarity, total = origin.similarity, len(words) - NGRAM + 1
    edits = max(1, round(total * (1 - similarity) / (1 + similarity) / NGRAM))
    slots = edits * (LINKS if similarity == STEP else 1)
    changed = list(words)
    for slot in range(slots):
        if slot % LINKS < origin.steps or similarity != STEP:
            # A chain's links share the edits of those before: they are drawn by the original.
            at = NGRAM + slot * (len(words) - 2 * NGRAM) // slots
            owner = origin.original if similarity == STEP else number
            changed[at] = _replacement(_drawn(owner, f"edit {slot}", seed))
    return changed


def _replacement(draw: int) -> str:
    words = sentences()[draw % len(sentences())]
    return f"{words[draw // 7 % len(words)]} {draw % 9973}"


def _layout(words: list[str]) -> str:
    return " ".join(words).replace(" \n\n", "\n\n").strip()


def _boilerplate(host: int, where: str) -> str:
    """What all pages of a host show."""
    pool = sentences()
    return " ".join(pool[_drawn(host, where, 0) % len(pool)])


@cache
def sentences() -> tuple[tuple[str, ...], ...]:
    """The distinct sentences of the prose, as words, in a fixed order."""
    folder = os.environ.get("MIXWRIGHT_DEV_DATA")
    found = {
        tuple(sentence.split())
        for paragraph in (_dev_paragraphs(Path(folder)) if folder else _sample_paragraphs())
        for sentence in SENTENCE_END.split(paragraph.strip())
    }
    return tuple(sorted(words for words in found if words))


def _dev_paragraphs(folder: Path) -> Iterator[str]:
    with (folder / "text" / "text.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if row["kind"] in ("prose", "technical") and row["lang"] == "en":
                yield from _long(row["text"].split("\n"))


def _sample_paragraphs() -> Iterator[str]:
    for path in _pages():
        found = PARAGRAPH.findall(path.read_text(encoding="utf-8", errors="replace"))
        yield from _long(html.unescape(TAG.sub(" ", paragraph)) for paragraph in found)


def _pages() -> Iterator[Path]:
    """The sample's English pages without planted dirt."""
    with (SAMPLE / "pages.tsv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if row["kind"] == "text" and row["language"] == "en" and not row["dirt"]:
                url = urlsplit(row["url"])
                path = SAMPLE / "www" / url.netloc / url.path.lstrip("/")
                yield path / "index.html" if path.is_dir() else path


def _long(paragraphs: Iterable[str]) -> Iterator[str]:
    return (paragraph for paragraph in paragraphs if len(paragraph) >= LONG)


if __name__ == "__main__":
    for made in documents(int(sys.argv[1])):
        print(json.dumps(made, ensure_ascii=False))
