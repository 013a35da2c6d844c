"""Writes the texts that the bundled quality classifier is trained on.

    python tests/data/make_quality.py --source DIR --out OUT    # good.jsonl and bad.jsonl in OUT
    mixwright train-quality OUT/good.jsonl OUT/bad.jsonl filters/weights/mixwright-quality.ftz ...

DIR holds pages and texts taken from Debian packages (`html/`, `text/`), as for `make_sample.py`.
Good is the prose of pages and technical texts; bad are change logs, licences, source code, labels
of programs, and what stands around the main text of pages. Texts are cut into passages, so that
a long licence is many examples and length tells nothing.
"""

import argparse
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

LANGUAGE = "en"
GOOD_KINDS, BAD_KINDS = {"technical"}, {"changelog", "licence", "code", "short"}
PASSAGE = 120  # words
FEWEST = 20  # words of a passage
SHORT = 8  # short texts that make up one


def passages(text: str) -> Iterator[str]:
    words = text.split()
    for start in range(0, len(words), PASSAGE):
        if len(words[start : start + PASSAGE]) >= FEWEST:
            yield " ".join(words[start : start + PASSAGE])


def rows(source: Path, kinds: set[str]) -> list[str]:
    """The texts of some kinds; short ones several together, as a page would hold them."""
    lines = (source / "text" / "text.jsonl").read_text(encoding="utf-8").splitlines()
    found = [row for row in map(json.loads, lines) if row["kind"] in kinds]
    found = [row for row in found if row["lang"] in (LANGUAGE, "code")]
    short = [row["text"] for row in found if row["kind"] == "short"]
    joined = ["\n".join(short[i : i + SHORT]) for i in range(0, len(short), SHORT)]
    return [row["text"] for row in found if row["kind"] != "short"] + joined


def pages(source: Path) -> Iterator[tuple[str, str]]:
    """The main text of each page, and the lines of it that are not there."""
    for path in sorted((source / "html").rglob("*.htm*")):
        if re.search(r"-(?:de|es|fr|zh|ru)$", path.relative_to(source / "html").parts[0]):
            continue
        tree = HTMLTree.parse_from_bytes(path.read_bytes(), "utf-8")
        main = extract_plain_text(tree, main_content=True)
        held = set(main.splitlines())
        around = [line for line in extract_plain_text(tree).splitlines() if line not in held]
        yield main, "\n".join(around)


def prose(text: str) -> str:
    """The paragraphs of a page: its lines that are long enough to be no label or table."""
    return "\n".join(line for line in text.splitlines() if len(line.split()) >= FEWEST)


def write(path: Path, texts: Iterable[str]) -> None:
    unique = {piece for text in texts for piece in passages(text)}
    ordered = sorted(unique, key=lambda text: hashlib.sha256(text.encode()).digest())
    path.write_text(
        "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in ordered),
        encoding="utf-8",
    )
    print(f"{path}: {len(ordered)} passages")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    found = list(pages(arguments.source))
    good = rows(arguments.source, GOOD_KINDS) + [prose(main) for main, _ in found]
    bad = rows(arguments.source, BAD_KINDS) + [around for _, around in found]
    write(arguments.out / "good.jsonl", good)
    write(arguments.out / "bad.jsonl", bad)


if __name__ == "__main__":
    main()
