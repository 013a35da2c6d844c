"""Builds the bundled sample: a small real web with its dirt, served by `make demo`.

    python tests/data/make_sample.py --source DIR            # write tests/data/sample
    python tests/data/make_sample.py --source DIR --check    # build twice, compare with it

DIR holds pages, pictures and prose taken from Debian packages (`html/`, `captions/`, `text/`).
Every choice is a hash of a name, so the same DIR gives the same bytes.
"""

import argparse
import csv
import hashlib
import html
import io
import json
import posixpath
import re
import shutil
import struct
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

SAMPLE = Path(__file__).parent / "sample"
DOCS, PROSE, JUNK = "docs.mixwright.example", "prose.mixwright.example", "junk.mixwright.example"
PICTURES, STAMPS = "pictures.mixwright.example", "stamps.mixwright.example"
MIRROR, GERMAN = "mirror.mixwright.example", "de.mixwright.example"
MADE = "made by make_sample.py"
CC0 = "CC0-1.0"
LEAST_PROSE = 950  # characters of prose on a page: with less, the material makes too few pages
Row = dict[str, str]
Rule = dict[str, Any]  # one of `site.yaml`; pipelines/fetching/site.py explains the fields


@dataclass
class Web:
    """What will be written: files by `host/path`, and the tables that describe them."""

    files: dict[str, bytes] = field(default_factory=dict)
    pages: list[Row] = field(default_factory=list)
    captions: list[Row] = field(default_factory=list)
    rules: dict[str, Rule] = field(default_factory=dict)
    licences: list[Row] = field(default_factory=list)

    def put(self, path: str, body: bytes) -> None:
        if self.files.setdefault(path, body) != body:
            raise ValueError(f"two contents for {path}")

    def page(self, path: str, body: bytes, kind: str, row: Row, dirt: str = "") -> None:
        self.put(path, body)
        self.list_page(path, kind, row, dirt)

    def list_page(self, path: str, kind: str, row: Row, dirt: str = "") -> None:
        about = {key: row[key] for key in ("language", "source", "licence")}
        self.pages.append({"url": f"http://{path}", "kind": kind, **about, "dirt": dirt})

    def caption(self, path: str, caption: str, source: str, licence: str) -> None:
        url = path if ":" in path.split("/")[0] else f"http://{path}"
        self.captions.append({"url": url, "caption": caption, "source": source, "licence": licence})

    def licence(self, path: str, licence: str, source: str, made: str) -> None:
        row = {"path": f"www/{path}", "licence": licence, "source": source, "made_by_script": made}
        if row not in self.licences:
            self.licences.append(row)


def rank(salt: str, name: str) -> str:
    return hashlib.sha256(f"{salt}\0{name}".encode()).hexdigest()


def pick(names: Iterable[str], count: int, salt: str) -> list[str]:
    """`count` of the names: the ones whose hash is smallest."""
    return sorted(names, key=lambda name: rank(salt, name))[:count]


# Pages as shipped -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Manual:
    folder: str  # under DIR/html
    mount: str  # host/path it is served at
    language: str
    source: str
    licence: str

    @property
    def row(self) -> Row:
        return {"language": self.language, "source": self.source, "licence": self.licence}


def manual(folder: str, mount: str, language: str, licence: str) -> Manual:
    package = folder.split("/")[0]
    return Manual(folder, mount, language, f"Debian bookworm package {package}", licence)


GIMP = manual("gimp-help-en/gimp/2.0/help/en", f"{DOCS}/gimp", "en", "GFDL-1.2+")
GIMP_DE = manual("gimp-help-de/gimp/2.0/help/de", f"{GERMAN}/gimp", "de", "GFDL-1.2+")
GEGL = manual("libgegl-doc/libgegl-dev", f"{DOCS}/gegl", "en", "LGPL-3+/GPL-3+")
BOX = manual(
    "freedombox-doc-en/freedombox/manual/en", f"{DOCS}/freedombox", "en", "CC-BY-SA-4.0/AGPL-3+"
)
SKIMAGE = manual(
    "python-skimage-doc/python-skimage-doc/html", f"{DOCS}/skimage", "en", "BSD-3-Clause"
)
HANDBOOK = "debian-handbook/debian-handbook/html"
HANDBOOKS = [
    manual(f"{HANDBOOK}/{locale}", f"{DOCS}/handbook/{locale}", code, "GPL-2+ or CC-BY-SA-3.0")
    for locale, code in (("es-ES", "es"), ("zh-TW", "zh"))
]


def shipped(source: Path, doc: Manual) -> dict[str, bytes]:
    root = source / "html" / doc.folder
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def pictures_of(page: str, body: bytes, files: dict[str, bytes]) -> list[str]:
    """Paths of the pictures a page refers to, where the manual ships them."""
    links = re.findall(rb"<img\b[^>]*?\bsrc=[\"']([^\"']+)", body, re.S)
    folder = posixpath.dirname(page)
    paths = (posixpath.normpath(posixpath.join(folder, link.decode())) for link in links)
    return [path for path in dict.fromkeys(paths) if path in files]


def png_size(body: bytes) -> tuple[int, int]:
    return struct.unpack(">II", body[16:24]) if body.startswith(b"\x89PNG") else (0, 0)


LOGOS = ("/logo.png", "/GEGL.png")


def is_large(body: bytes) -> bool:
    return body.startswith(b"\xff\xd8") or min(png_size(body)) >= 100


def has_picture(page: str, body: bytes, files: dict[str, bytes]) -> bool:
    """Whether a page has a large picture of its own, not just the site's logo."""
    own = (path for path in pictures_of(page, body, files) if not path.endswith(LOGOS))
    return any(is_large(files[path]) for path in own)


def add_manual(web: Web, doc: Manual, files: dict[str, bytes], dirt: str = "") -> None:
    web.licence(f"{doc.mount}/", doc.licence, doc.source, "no: as shipped")
    for name, body in files.items():
        path = f"{doc.mount}/{name}"
        if not name.endswith(".html"):
            web.put(path, body)
            continue
        kind, found = judge(doc, name, body, files)
        web.page(path, body, kind, doc.row, dirt or found)


def judge(doc: Manual, name: str, body: bytes, files: dict[str, bytes]) -> tuple[str, str]:
    """The kind of a page as shipped, and what is wrong with it."""
    if has_picture(name, body, files):
        return "interleaved", ""
    if doc is GEGL:
        return "interleaved", "as shipped: no picture but the site's logo"
    bare = "sg_execution_times" in name or name.endswith(NO_PROSE)
    return "text", "as shipped: a table, a form or links, no prose" if bare else ""


NO_PROSE = (
    "search.html",
    "modindex.html",
    "user_guide.html",
    "gitwash/index.html",
    "gitwash/git_development.html",
    "skips/index.html",
)


def part_of(files: dict[str, bytes], pages: Sequence[str]) -> dict[str, bytes]:
    """Some pages of a manual with the pictures they show."""
    names = [name for page in pages for name in pictures_of(page, files[page], files)]
    return {name: files[name] for name in [*pages, *dict.fromkeys(names)]}


def add_manuals(web: Web, source: Path) -> None:
    for doc in (BOX, SKIMAGE):
        add_manual(web, doc, shipped(source, doc))
    for doc in (GIMP, GEGL):
        files = without_bare_pages(doc, shipped(source, doc))
        dirty = pick((name for name in files if name.endswith(".html")), 6, "ads")
        add_manual(web, doc, {name: files[name] for name in files if name not in dirty})
        for name in dirty:
            add_page_with_ads(web, doc, name, files[name])
    for doc in HANDBOOKS:
        add_manual(web, doc, shipped(source, doc), f"as shipped: language {doc.language}")
    german = shipped(source, GIMP_DE)
    chosen = pick((name for name in german if name.endswith(".html")), 25, "german")
    add_manual(web, GIMP_DE, part_of(german, chosen), "as shipped: language de")


def without_bare_pages(doc: Manual, files: dict[str, bytes]) -> dict[str, bytes]:
    """A manual with 40 at most of its pages that have no picture."""
    pages = (name for name in files if name.endswith(".html"))
    bare = [name for name in pages if not has_picture(name, files[name], files)]
    dropped = set(bare) - set(pick(bare, 40, doc.mount))
    return {name: files[name] for name in files if name not in dropped}


def add_page_with_ads(web: Web, doc: Manual, name: str, body: bytes) -> None:
    ads = "".join(f'<img src="http://{JUNK}/ads/{ad}" />' for ad in AD_PICTURES)
    dirty = body.replace(b"</body>", f'<div class="ad">{ads}</div></body>'.encode())
    dirt = "tracker, icon, banner, broken and missing pictures added"
    web.page(f"{doc.mount}/{name}", dirty, "interleaved", doc.row, dirt)
    web.licence(f"{doc.mount}/{name}", doc.licence, doc.source, f"partly: {dirt}")


# Prose ----------------------------------------------------------------------------------------

STOP_WORDS = "the be to of and that have with is are a in this for as"
PLAIN_WORD = re.compile(r"[(“\"']?[A-Za-z][A-Za-z’'-]*[.,;:!?)”\"']*")


def is_prose(paragraph: str) -> bool:
    words = paragraph.split()
    plain = sum(bool(PLAIN_WORD.fullmatch(word)) for word in words)
    stops = sum(word.lower() in STOP_WORDS.split() for word in words)
    numbered = re.match(r"\d+ ", paragraph)  # the line numbers of a listing
    return len(words) >= 8 and plain >= 0.8 * len(words) and stops >= 2 and not numbered


def paragraphs(text: str) -> list[str]:
    return [" ".join(block.split()) for block in re.split(r"\n\s*\n", text) if block.strip()]


def split_prose(blocks: Iterable[str], least: int = LEAST_PROSE) -> list[list[str]]:
    """The prose of a document in pages of at least `least` characters; a short end joins
    the page before it."""
    pages: list[list[str]] = [[]]
    for block in filter(is_prose, blocks):
        if sum(map(len, pages[-1])) >= least:
            pages.append([])
        pages[-1].append(block)
    if len(pages) > 1 and sum(map(len, pages[-1])) < least:
        pages[-2:] = [pages[-2] + pages[-1]]
    return pages if sum(map(len, pages[-1])) >= least else []


MENU = "".join(f'<li><a href="/{name}/">{name}</a></li>' for name in ("home", "topics", "about"))
FURNITURE = """<!DOCTYPE html>
<html lang="{language}">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
<header><img src="/assets/logo.png" alt="logo" width="240" height="120">
<nav><ul>{menu}</ul></nav></header>
<aside><h4>Read also</h4><ul>{siblings}</ul></aside>
<main><article>
<h1>{title}</h1>
{body}
</article></main>
<footer><p>Copyright by the authors. All rights reserved. Terms of use. Privacy policy.</p>
<div class="cookie-notice">We use cookies to improve your experience. Accept all cookies.</div>
</footer>
</body>
</html>
"""


def wrap(title: str, body: str, siblings: Sequence[str] = (), language: str = "en") -> bytes:
    """A page around some text: the furniture is what an extractor has to take off again."""
    links = "".join(f'<li><a href="{name}">{name}</a></li>' for name in siblings[:8])
    text = FURNITURE.format(
        language=language, title=html.escape(title), menu=MENU, siblings=links, body=body
    )
    return text.encode()


def as_paragraphs(blocks: Iterable[str]) -> str:
    return "\n".join(f"<p>{html.escape(block)}</p>" for block in blocks)


def as_listing(text: str) -> str:
    return f"<pre>{html.escape(text)}</pre>"


@dataclass(frozen=True)
class Text:
    """One document of the source's `text.jsonl`."""

    text: str
    language: str
    kind: str
    source: str
    licence: str

    @property
    def package(self) -> str:
        part = self.source.split(":")
        return part[1] if part[0] == "deb" else "scripts"

    @property
    def name(self) -> str:
        stem = re.sub(r"\.(html?|gz|py|js)$", "", self.source.split("/")[-1])
        return re.sub(r"[^A-Za-z0-9]+", "-", stem).strip("-").lower()

    @property
    def row(self) -> Row:
        return {"language": self.language, "source": self.source, "licence": self.licence}


def read_texts(source: Path) -> list[Text]:
    lines = (source / "text" / "text.jsonl").read_text().splitlines()
    rows = (json.loads(line) for line in lines)
    return [read_text(row) for row in rows]


def read_text(row: Row) -> Text:
    source = row["source"].removeprefix("x/")
    return Text(row["text"], row["lang"], row["kind"], source, licence_of(row))


def licence_of(row: Row) -> str:
    if row["source"].startswith("/usr/lib/python3"):
        return "PSF-2.0"
    if "mathjax" in row["source"]:
        return "Apache-2.0"
    return row["licence"].replace("as package", "as the Debian package's copyright file says")


WRAPPED = "partly: text as shipped, page furniture made by the script"


def add_prose_pages(
    web: Web, folder: str, name: str, blocks: Sequence[str], row: Row, dirt: str = ""
) -> None:
    parts = split_prose(blocks)
    names = [f"{name}-{number}.html" for number in range(1, len(parts) + 1)]
    for path, part in zip(names, parts, strict=True):
        title = f"{blocks[0][:80]} ({path.removesuffix('.html').rsplit('-', 1)[1]})"
        web.page(f"{folder}{path}", wrap(title, as_paragraphs(part), names), "text", row, dirt)
    if parts:
        web.licence(folder, row["licence"], row["source"].split(":usr/")[0], WRAPPED)


def add_prose(web: Web, texts: Sequence[Text]) -> None:
    """Technical documents, split; the LLVM 16 manual repeats that of LLVM 14 nearly word for
    word."""
    seen: set[str] = set()
    for doc in texts:
        if doc.kind != "technical" or doc.language != "en" or doc.text in seen:
            continue
        seen.add(doc.text)
        dirt = "near-duplicate (as shipped): LLVM 14's page" if "llvm-16" in doc.source else ""
        folder = f"{PROSE}/{doc.package}/"
        add_prose_pages(web, folder, doc.name, paragraphs(doc.text), doc.row, dirt)


def add_plain_editions(web: Web, source: Path) -> None:
    """The paragraphs of illustrated manuals, as prose without the pictures."""
    for doc, folder in ((GIMP, f"{PROSE}/gimp-plain/"), (BOX, f"{PROSE}/freedombox-plain/")):
        files = shipped(source, doc)
        for name, body in files.items():
            if name.endswith(".html") and has_picture(name, body, files):
                stem = name.removesuffix(".html").replace(".part", "").lower()
                add_prose_pages(web, folder, stem, html_paragraphs(body), doc.row)


def html_paragraphs(body: bytes) -> list[str]:
    blocks = re.findall(r"<p(?:\s[^>]*)?>(.*?)</p>", body.decode(), re.S)
    plain = (html.unescape(re.sub(r"<[^>]+>", "", block)) for block in blocks)
    return [" ".join(block.split()) for block in plain if block.strip()]


# Dirty pages ----------------------------------------------------------------------------------

JUNK_COUNTS = {"licence": 10, "changelog": 8, "code": 10, "manpage": 32, "technical": 9}
# Fortunes are jokes; these collections hold none that would be out of place in a test.
FORTUNES = ("computers", "science", "work", "linux", "definitions", "debian", "perl", "wisdom")
MADE_ROW = {"language": "en", "source": MADE, "licence": CC0}
LOREM = (
    "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor incididunt ut "
    "labore et dolore magna aliqua enim ad minim veniam quis nostrud exercitation ullamco laboris"
)


def head(text: str, size: int = 6000) -> str:
    return text if len(text) <= size else text[: text.rfind("\n", 0, size)]


def add_junk_texts(web: Web, texts: Sequence[Text]) -> None:
    """Real texts that are not prose, or not English."""
    for kind, count in JUNK_COUNTS.items():
        docs = {d.source: d for d in texts if d.kind == kind and (kind, d.language) != EN_PROSE}
        for name in pick(docs, count, kind):
            add_junk_page(web, docs[name])
    shorts = {d.text: d for d in texts if d.kind == "short" and d.source.endswith(FORTUNES)}
    english = pick((t for t in shorts if shorts[t].language == "en"), 15, "short")
    foreign = pick((t for t in shorts if shorts[t].language != "en"), 6, "short")
    for text in english + foreign:
        add_junk_page(web, shorts[text])


EN_PROSE = ("technical", "en")


def add_junk_page(web: Web, doc: Text) -> None:
    folder = f"{JUNK}/{doc.kind}/{doc.package}/"
    name = f"{doc.name}-{rank('', doc.text)[:6]}.html"
    listing = doc.kind in ("code", "manpage", "changelog")
    body = as_listing(head(doc.text)) if listing else as_paragraphs(paragraphs(head(doc.text)))
    dirt = doc.kind if doc.language in ("en", "code") else f"language {doc.language}"
    page = wrap(doc.name, body, language=doc.language)
    web.page(folder + name, page, "text", doc.row, f"as shipped: {dirt}")
    web.licence(folder, doc.licence, ":".join(doc.source.split(":")[:2]), WRAPPED)


def prose_paths(web: Web) -> list[str]:
    clean = (row["url"] for row in web.pages if row["kind"] == "text" and not row["dirt"])
    return [url.removeprefix("http://") for url in clean if url.startswith(f"http://{PROSE}/")]


def add_duplicates(web: Web) -> None:
    rows = {row["url"].removeprefix("http://"): row for row in web.pages}
    prose = prose_paths(web)
    web.put(f"{MIRROR}/assets/logo.png", LOGO)
    web.licence(f"{MIRROR}/assets/", CC0, MADE, "yes")
    for path in pick(prose, 20, "exact"):
        copy = path.replace(PROSE, MIRROR)
        web.page(copy, web.files[path], "text", rows[path], "exact duplicate on a mirror")
        web.licence(posixpath.dirname(copy) + "/", rows[path]["licence"], "copy", WRAPPED)
    for path in pick(prose, 14, "near"):
        copy = path.replace(".html", "-edited.html")
        body = edit_words(web.files[path])
        web.page(copy, body, "text", rows[path], "near-duplicate: some words edited")
        web.licence(copy, rows[path]["licence"], rows[path]["source"], WRAPPED + "; words edited")
    add_picture_mirror(web, rows)


def edit_words(page: bytes) -> bytes:
    """Replaces one `the` in four by `that`."""
    pieces = page.split(b" the ")
    joints = [b" the " if number % 4 else b" that " for number in range(len(pieces) - 1)]
    return b"".join(map(bytes.__add__, pieces, [*joints, b""]))


def add_picture_mirror(web: Web, rows: dict[str, Row]) -> None:
    clean = (p for p, row in rows.items() if p.startswith(GEGL.mount) and not row["dirt"])
    pages = pick((path for path in clean if path.count("/") == 3), 10, "mirror")
    names = [path.removeprefix(f"{DOCS}/") for path in pages]
    files = {path.removeprefix(f"{DOCS}/"): body for path, body in web.files.items()}
    for name in part_of(files, names):
        web.put(f"{MIRROR}/{name}", files[name])
    for name, path in zip(names, pages, strict=True):
        dirt = "exact duplicate on a mirror"
        web.list_page(f"{MIRROR}/{name}", "interleaved", rows[path], dirt)
    web.licence(f"{MIRROR}/gegl/", GEGL.licence, GEGL.source, "no: as shipped, copied")


def lorem(seed: int, sentences: int) -> str:
    latin = LOREM.split()
    words = [latin[int(rank(f"lorem {seed}", str(n)), 16) % len(latin)] for n in range(600)]
    lines = (words[12 * n : 12 * n + 12] for n in range(sentences))
    return "Lorem ipsum dolor sit amet. " + " ".join(f"{' '.join(s)}.".capitalize() for s in lines)


def add_made_pages(web: Web) -> None:
    web.licence(f"{JUNK}/made/", CC0, MADE, "yes")
    for number in range(4):
        body = as_paragraphs(lorem(10 * number + part, 9) for part in range(3))
        add_made(web, f"lorem-{number}", wrap("Coming soon", body, language="la"), "lorem ipsum")
    for number in range(6):
        add_made(web, f"empty-{number}", wrap("Members only", ""), "boilerplate only")
    add_made(web, "zero", b"", "zero bytes")
    web.page(f"{JUNK}/made/gallery.html", gallery(web), "interleaved", MADE_ROW, "60 pictures")
    add_personal_data(web)
    add_broken_markup(web)


def add_made(web: Web, name: str, body: bytes, dirt: str) -> None:
    web.page(f"{JUNK}/made/{name}.html", body, "text", MADE_ROW, dirt)


def gallery(web: Web) -> bytes:
    rows = [row for row in web.captions if "noto" in row["url"]][:60]
    shown = (f'<p>{html.escape(r["caption"])}</p><img src="{r["url"]}">' for r in rows)
    return wrap("Every picture we have", "\n".join(shown))


# Public addresses (name servers anyone may ask), since private ones are left alone by PII rules.
CONTACT = (
    "If something on this page is wrong, write to {name}@mail{n}.example.com or to the list "
    "{name}-list@example.org, and say which address you came from. The service answers at "
    "{address}, and its reserve at 9.9.9.9 during maintenance."
)
ADDRESSES = ("8.8.8.8", "8.8.4.4", "1.1.1.1", "208.67.222.222")


def add_personal_data(web: Web) -> None:
    rows = {row["url"]: row for row in web.pages}
    for number, path in enumerate(pick(prose_paths(web), 8, "contact")):
        name = ("jane.doe", "max.muster", "info", "w.tell")[number % 4]
        text = CONTACT.format(name=name, n=number, address=ADDRESSES[number % 4])
        body = as_paragraphs([text, *html_paragraphs(web.files[path].split(b"<article>")[1])[:-1]])
        row = rows[f"http://{path}"]
        copy = f"{JUNK}/contact/{number}.html"
        web.page(copy, wrap("Contact", body), "text", row, "mail and IP addresses added")
        web.licence(copy, row["licence"], row["source"], WRAPPED + "; a paragraph added")


def add_broken_markup(web: Web) -> None:
    good = web.files[prose_paths(web)[0]]
    broken = (
        good.replace(b"</p>", b"<td><b>")
        .replace(b"</article>", b"<<p <!-- \0 ")
        .replace(b"</html>", b"<table><tr>")
    )
    add_made(web, "malformed", broken, "malformed HTML")
    text = wrap(
        "Caf\u00e9", as_paragraphs(["The caf\u00e9 is closed \u2014 \u201csorry\u201d."] * 20)
    )
    bad = text.decode().replace("utf-8", "x-unheard-of").encode("cp1252")
    add_made(web, "charset", bad, "unknown charset")
    web.rules[f"{JUNK}/made/charset.html"] = {"type": "text/html; charset=x-unheard-of"}
    add_made(web, "cut", good, "connection closed before the end")
    web.rules[f"{JUNK}/made/cut.html"] = {"truncate": 900}
    answers: dict[str, Rule] = {
        "moved": {"status": 301, "location": f"http://{JUNK}/made/empty-0.html"},
        "forbidden": {"status": 403},
        "failing": {"status": 500},
    }
    for name, rule in answers.items():
        web.rules[f"{JUNK}/made/{name}.html"] = rule
        web.list_page(f"{JUNK}/made/{name}.html", "text", MADE_ROW, f"status {rule['status']}")
    web.list_page(f"{JUNK}/made/missing.html", "text", MADE_ROW, "status 404")


# Captioned pictures ---------------------------------------------------------------------------


def png(width: int, height: int, colour: int) -> bytes:
    """A striped RGB picture, written by hand so that no codec's version changes its bytes."""
    line = b"\0" + b"".join(bytes((colour, x * 7 % 256, 90)) for x in range(width))

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress(line * height, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


LOGO = png(240, 120, 30)
AD_PICTURES = {
    "pixel.png": png(1, 1, 0),
    "icon.png": png(16, 16, 200),
    "banner.png": png(1200, 90, 120),
    "truncated.png": png(300, 200, 60)[:150],
    "missing.png": None,
}


def picture_folder(row: Row) -> str:
    package = row["source"].removeprefix("deb:").split("-")[0].split("/")[0]
    free = "-by-sa" if row["licence"].startswith("CC") else ""
    host = PICTURES if package in ("openclipart", "fonts") else STAMPS
    name = {"fonts": "noto", "plasma": f"wallpapers{free}"}.get(package, package)
    return f"{host}/{name}/"


def add_captions(web: Web, source: Path) -> None:
    table = pq.read_table(source / "captions" / "captions.parquet")
    for row in sorted(table.to_pylist(), key=lambda row: row["file"]):
        folder = picture_folder(row)
        path = folder + posixpath.basename(row["file"])
        web.put(path, (source / "captions" / row["file"]).read_bytes())
        web.caption(path, row["caption"], row["source"], row["licence"])
        web.licence(folder, row["licence"], row["source"], "no: as shipped or rendered")


def spoil_captions(web: Web) -> None:
    """Turns some rows bad in place: captions of other pictures, file names, one word, phrases."""
    counts = Counter(row["caption"] for row in web.captions)
    rows = {row["url"]: row for row in web.captions}
    own = [url for url, row in rows.items() if counts[row["caption"]] == 1]
    repeated = [url for url in rows if url not in set(own)]
    permute_captions([rows[url] for url in pick(own, 60, "permute")])
    spoiled = pick(repeated, 80, "spoil")
    for number, url in enumerate(spoiled):
        kind, caption = bad_caption(number, url)
        rows[url].update(caption=caption, source=f"{MADE}: {kind}")


def permute_captions(rows: Sequence[Row]) -> None:
    captions = [row["caption"] for row in rows]
    for row, caption in zip(rows, captions[1:] + captions[:1], strict=True):
        row.update(caption=caption, source=f"{MADE}: mismatched caption")


def bad_caption(number: int, url: str) -> tuple[str, str]:
    names = (f"IMG_{1000 + number}.jpg", f"DSC{number:05d}.JPG", posixpath.basename(url))
    if number < 30:
        return "file name as caption", names[number % 3]
    if number < 50:
        return "too short caption", ("a", "ok", "pic", "", "..")[number % 5]
    return "boilerplate caption", ("click to enlarge", "image", "Photo of the day")[number % 3]


def add_dirty_pictures(web: Web) -> None:
    """Bad pictures and bad servers, each with a caption that a good row has."""
    good = [row for row in web.captions if not row["source"].startswith(MADE)]
    texts = iter(pick({row["caption"] for row in good if len(row["caption"]) > 8}, 200, "dirty"))

    def list_picture(path: str, dirt: str) -> None:
        web.caption(path, next(texts), f"{MADE}: {dirt}", CC0)

    web.licence(f"{JUNK}/ads/", CC0, MADE, "yes")
    web.licence(f"{JUNK}/broken/", CC0, MADE, "yes")
    for path, body, dirt in made_pictures():
        web.put(f"{JUNK}/{path}", body)
        list_picture(f"{JUNK}/{path}", dirt)
    for path, rule, dirt in made_answers():
        web.put(f"{JUNK}/{path}", png(160, 120, len(web.files) % 256))
        web.rules[f"{JUNK}/{path}"] = rule
        list_picture(f"{JUNK}/{path}", dirt)
    for number in range(30):
        list_picture(f"{JUNK}/gone/{number}.png", "missing (404)")
    for url in (f"nowhere.mixwright.example/{n}.png" for n in range(3)):
        list_picture(url, "unknown host")
    for url in ("ftp://junk.mixwright.example/a.png", "data:image/png;base64,AAAA", "not:a url"):
        list_picture(url, "not an HTTP URL")


def made_pictures() -> list[tuple[str, bytes, str]]:
    whole = png(300, 200, 77)
    page = wrap("Not found", as_paragraphs(["The picture you asked for has moved."]))
    ads = [
        (f"ads/{name}", body, "bad picture of an advert")
        for name, body in AD_PICTURES.items()
        if body
    ]
    return [
        *ads,
        *((f"ads/tracker-{n}.png", png(1, 1, n), "tracking pixel") for n in range(10)),
        *((f"ads/icon-{n}.png", png(16, 16, n), "icon of 16 pixels") for n in range(10)),
        *((f"ads/button-{n}.png", png(120, 100, n), "button in the URL") for n in range(4)),
        *((f"ads/logo-{n}.png", png(120, 100, 50 + n), "logo in the URL") for n in range(4)),
        *((f"ads/banner-{n}.png", png(900 + n, 60, n), "extreme aspect ratio") for n in range(10)),
        *((f"ads/tower-{n}.png", png(60, 900 + n, n), "extreme aspect ratio") for n in range(4)),
        *((f"broken/cut-{n}.png", whole[: 60 + 9 * n], "truncated file") for n in range(10)),
        *((f"broken/page-{n}.png", page, "HTML as a picture") for n in range(10)),
        *((f"broken/zero-{n}.png", b"", "zero bytes") for n in range(5)),
    ]


def made_answers() -> list[tuple[str, Rule, str]]:
    inside = ("http://127.0.0.1:9/a.png", "http://169.254.169.254/latest/meta-data/")
    loops = [f"http://{JUNK}/answers/loop-{1 - n}.png" for n in range(2)]
    answers: list[tuple[str, Rule, str]] = [
        ("slow", {"delay": 2.0}, "slow server"),
        *((f"gone-{n}", {"status": 410}, "gone (410)") for n in range(4)),
        *((f"failing-{n}", {"status": 500}, "server error (500)") for n in range(4)),
        *(
            (f"busy-{n}", {"status": 429, "headers": {"Retry-After": "1"}}, "busy (429)")
            for n in range(2)
        ),
        *((f"cut-{n}", {"truncate": 200}, "connection closed early") for n in range(5)),
        *((f"type-{n}", {"type": "text/html"}, "wrong content type") for n in range(5)),
        *(
            (f"inside-{n}", {"status": 302, "location": url}, "redirect to a private address")
            for n, url in enumerate(inside)
        ),
        *(
            (f"loop-{n}", {"status": 302, "location": url}, "redirect loop")
            for n, url in enumerate(loops)
        ),
    ]
    return [(f"answers/{name}.png", rule, dirt) for name, rule, dirt in answers]


OPT_OUTS = ("noai", "noimageai", "noindex, noai", "noimageindex", "noml", "otherbot: noai")


def add_refusals(web: Web) -> None:
    """Pictures whose owners said no (headers, robots.txt), second addresses, redirects."""
    rows = {
        row["url"].removeprefix("http://"): row
        for row in web.captions
        if not row["source"].startswith(MADE)
    }
    for number, path in enumerate(pick(rows, 18, "opt out")):
        web.rules[path] = {"headers": {"X-Robots-Tag": OPT_OUTS[number % len(OPT_OUTS)]}}
    stamps = [path for path in rows if path.startswith(f"{STAMPS}/tuxpaint/")]
    for path in pick(stamps, 20, "robots"):
        copy_picture(web, rows[path], path, path.replace("/tuxpaint/", "/private/"), "by robots")
    for path in pick(stamps, 30, "second"):
        copy_picture(web, rows[path], path, path.replace(STAMPS, MIRROR), "second address")
    for path in pick(rows, 10, "redirect"):
        old = f"{MIRROR}/old/{posixpath.basename(path)}"
        web.rules[old] = {"status": 301, "location": f"http://{path}"}
        web.caption(old, rows[path]["caption"], f"{MADE}: redirect", rows[path]["licence"])
    for path in pick(rows, 10, "twice"):
        web.captions.append(dict(rows[path]))
    web.put(f"{STAMPS}/robots.txt", b"User-agent: *\nDisallow: /private/\nAllow: /\n")
    web.put(f"{PICTURES}/robots.txt", b"User-agent: badbot\nDisallow: /\n")


def copy_picture(web: Web, row: Row, path: str, copy: str, dirt: str) -> None:
    web.put(copy, web.files[path])
    web.caption(copy, row["caption"], f"{MADE}: {dirt}", row["licence"])
    web.licence(posixpath.dirname(copy) + "/", row["licence"], row["source"], "no: copied")


# Writing --------------------------------------------------------------------------------------

README = """# The bundled sample: a small real web

Real pages, captioned pictures and prose from Debian's main section, served on loopback by
`pipelines/fetching/site.py` as if they were the web, together with the dirt that every crawl has.

- `www/HOST/...`: the files of each virtual host (`.example` is reserved, so no name is anyone's).
- `pages.tsv`: every page to crawl: `url`, `kind` (`interleaved` or `text`), `language`, `source`,
  `licence`, and `dirt`: empty for a clean page, else what is wrong with it. `as shipped: ...` is
  dirt found in the packages, anything else was added by the script.
- `captions.parquet`: the URL table: `url`, `caption`, `source`, `licence`. A `source` that begins
  with `made by make_sample.py` is a bad row and names its fault.
- `site.yaml`: what the server does besides handing out files: statuses, redirects, headers,
  delays, wrong content types, bodies cut short.
- `LICENCES.tsv`: licence and source by file or folder (the longest matching `path` counts), and
  what the script made. A page marked `partly` holds text as shipped inside furniture (header,
  menu, footer, cookie notice) made by the script; listings and headings are left out of split
  documents. The `-plain` folders hold the paragraphs of manuals that are also crawled as
  illustrated pages.

Some dirt is in the pages as shipped: navigation icons, the same logo on every page of a manual,
captions that repeat, links to pages that are not here.

{counts}

Regenerate with `python tests/data/make_sample.py --source DIR`; with `--check` the script builds
everything twice and compares both with what is committed. Do not edit these files by hand.
"""


def tsv(rows: Sequence[Row]) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter="\t", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def parquet(rows: Sequence[Row]) -> bytes:
    names = ("url", "caption", "source", "licence")
    table = pa.table({name: pa.array([r[name] for r in rows], pa.string()) for name in names})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue())


def summary(web: Web) -> str:
    kinds = Counter((row["kind"], "dirty" if row["dirt"] else "clean") for row in web.pages)
    captions = Counter("dirty" if r["source"].startswith(MADE) else "clean" for r in web.captions)
    pages = [
        f"| {kind} pages | {kinds[kind, 'clean']} | {kinds[kind, 'dirty']} |"
        for kind in ("interleaved", "text")
    ]
    rows = [*pages, f"| caption rows | {captions['clean']} | {captions['dirty']} |"]
    return "\n".join(["| | clean | dirty |", "|---|---|---|", *rows])


OWN_FILES = ("LICENCES.tsv", "README.md", "captions.parquet", "pages.tsv", "site.yaml")


def render(web: Web) -> dict[str, bytes]:
    own = [
        {"path": name, "licence": CC0, "source": MADE, "made_by_script": "yes"}
        for name in OWN_FILES
    ]
    licences = sorted([*own, *web.licences], key=lambda row: (row["path"], row["source"]))
    tables = {
        "LICENCES.tsv": tsv(licences),
        "README.md": README.format(counts=summary(web)).encode(),
        "captions.parquet": parquet(web.captions),
        "pages.tsv": tsv(web.pages),
        "site.yaml": yaml.safe_dump(web.rules, sort_keys=True, width=200).encode(),
    }
    return tables | {f"www/{path}": body for path, body in web.files.items()}


def build(source: Path) -> dict[str, bytes]:
    """Every file of the sample by its path, from the source folder alone."""
    web = Web()
    texts = read_texts(source)
    add_manuals(web, source)
    add_prose(web, texts)
    add_plain_editions(web, source)
    add_captions(web, source)
    web.put(f"{PROSE}/assets/logo.png", LOGO)
    web.put(f"{JUNK}/assets/logo.png", LOGO)
    add_made_pages(web)
    add_junk_texts(web, texts)
    add_duplicates(web)
    spoil_captions(web)
    add_refusals(web)
    add_dirty_pictures(web)
    for path in (f"{PROSE}/assets/", f"{JUNK}/assets/", f"{JUNK}/answers/"):
        web.licence(path, CC0, MADE, "yes")
    for host in (STAMPS, PICTURES):
        web.licence(f"{host}/robots.txt", CC0, MADE, "yes")
    return render(web)


def write(files: dict[str, bytes], folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, body in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def read(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()
    files = build(options.source)
    if not options.check:
        write(files, SAMPLE)
    elif files != build(options.source) or files != read(SAMPLE):
        sys.exit("the sample differs from what this script builds")


if __name__ == "__main__":
    main()
