import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipelines import extract
from pipelines.extract import Page, extract_pages, interleaved_parts, page_licence, prose_parts
from shards import schema

URL = "http://site.example/news/page.html"
SAMPLE = Path(__file__).parents[1] / "data" / "sample" / "www"


def shown(html: str | bytes, url: str = URL) -> list[str]:
    """The parts as short strings: texts as they are, images as <URL>."""
    return [f"<{p['url']}>" if p["url"] else p["text"] for p in interleaved_parts(html, url)]


def page(body: bytes, **fields: object) -> Page:
    values = {"status": 200, "content_type": "text/html", "charset": None} | fields
    return Page(URL, 0, body=body, **values)


def warc(bodies: list[bytes], *, gz: bool = True, encoding: str | None = None) -> bytes:
    stream = io.BytesIO()
    writer = WARCWriter(stream, gzip=gz)
    writer.write_record(writer.create_warcinfo_record("x.warc", {"software": "test"}))
    for number, body in enumerate(bodies):
        headers = [("Content-Type", "text/html; charset=utf-8")]
        headers += [("Content-Encoding", encoding)] if encoding else []
        status = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
        url = f"http://site.example/{number}"
        payload = io.BytesIO(body)
        writer.write_record(
            writer.create_warc_record(url, "response", payload, http_headers=status)
        )
    return stream.getvalue()


BODIES = [b"<p>zero</p>", b"<p>one</p>", b"<p>two</p>"]


@pytest.mark.parametrize("gz", [True, False])
def test_a_warc_gives_its_pages_and_where_they_start(gz, tmp_path):
    path = tmp_path / "x.warc"
    path.write_bytes(warc(BODIES, gz=gz))
    with path.open("rb") as stream:
        pages = list(extract.read_warc(stream))
    assert [p.url for p in pages] == [f"http://site.example/{n}" for n in range(3)]
    assert [p.body for p in pages] == BODIES
    assert {(p.status, p.content_type, p.charset) for p in pages} == {(200, "text/html", "utf-8")}
    with path.open("rb") as stream:
        stream.seek(pages[1].offset)
        assert next(extract.read_warc(io.BytesIO(stream.read()))).url == pages[1].url


def test_content_encoding_is_undone_and_bounded():
    data = warc([gzip.compress(b"x" * 5000)], encoding="gzip")
    assert next(extract.read_warc(io.BytesIO(data))).body == b"x" * 5000
    (large,) = extract.read_warc(io.BytesIO(data), max_bytes=4999)
    assert large.too_large and large.body == b""
    assert extract.page_reason(large) == "page_too_large"


@pytest.mark.parametrize("gz", [True, False])
def test_a_damaged_record_costs_only_itself(gz):
    data = bytearray(warc(BODIES, gz=gz))
    start = list(extract.read_warc(io.BytesIO(bytes(data))))[1].offset
    data[start : start + 6] = b"\xff" * 6
    pages = list(extract.read_warc(io.BytesIO(bytes(data))))
    assert [p.body for p in pages if p.error is None] == [BODIES[0], BODIES[2]]
    assert len([p for p in pages if p.error]) == 1


def test_a_body_that_does_not_decode_costs_only_itself():
    data = warc([b"not gzip", gzip.compress(b"good")], encoding="gzip")
    bad, good = extract.read_warc(io.BytesIO(data))
    assert bad.url == "http://site.example/0" and bad.error
    assert good.body == b"good"


@pytest.mark.parametrize("gz", [True, False])
def test_a_truncated_record_is_an_error(gz):
    pages = list(extract.read_warc(io.BytesIO(warc(BODIES, gz=gz)[:-12])))
    assert [bool(p.error) for p in pages] == [False, False, True]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"status": 404}, "http_status"),
        ({"content_type": "image/png"}, "not_html"),
        ({"content_type": None}, "not_html"),
        ({"too_large": True}, "page_too_large"),
        ({"body": b" \n"}, "empty_body"),
        ({"body": b"<p>x"}, None),
        ({"body": b"<p>x", "content_type": "application/xhtml+xml"}, None),
    ],
)
def test_page_reasons(fields, reason):
    assert extract.page_reason(page(**({"body": b""} | fields))) == reason


def test_texts_and_images_come_in_page_order():
    html = "<h1>Title</h1><p>One <b>bold</b>\n word.</p><img src=a.jpg><p>Two.</p><p>Three.</p>"
    assert shown(html) == [
        "Title\n\nOne bold word.",
        "<http://site.example/news/a.jpg>",
        "Two.\n\nThree.",
    ]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<ul><li>a</li><li>b</li></ul>", "a\nb"),
        ("<table><tr><td>a</td><td>b</td></tr><tr><td>c</td></tr></table>", "a b\nc"),
        ("a<br>b<br><br>c<br><br><br>d", "a\nb\n\nc\n\nd"),
        ("<div>a<p>b</p>c</div>", "a\n\nb\n\nc"),
        ("<p>x <pre>\n if a:\n   b</pre> y", "x\n\n if a:\n   b\n\ny"),
        ("<p>un<i>brok</i>en</p>", "unbroken"),
        ("<p>a<p>b</div></span><p>c", "a\n\nb\n\nc"),
    ],
)
def test_blocks_separate_and_inline_tags_dissolve(html, text):
    assert shown(html) == [text]


@pytest.mark.parametrize(
    "boilerplate",
    [
        "<script>x</script>",
        "<style>x</style>",
        "<nav>x</nav>",
        "<header>x</header>",
        "<footer>x</footer>",
        "<aside>x</aside>",
        "<noscript>x</noscript>",
        "<div hidden>x</div>",
        "<div style='display: none'>x</div>",
        "<div class='site-footer'>x</div>",
        "<div id=mainMenu>x</div>",
        "<div class='cookie_banner'>x</div>",
        "<div role=navigation>x</div>",
        "<ul><li><a>x</a></li><li><a>x</a></li><li><a>x</a></li></ul>",
    ],
)
def test_boilerplate_goes_with_its_images(boilerplate):
    html = f"<p>The page itself.</p>{boilerplate}<p>More.</p>"
    assert shown(html) == ["The page itself.\n\nMore."]
    if "<a>" not in boilerplate:
        assert shown(html.replace(">x<", "><img src=a.png><")) == shown(html)


@pytest.mark.parametrize(
    "html",
    [
        "<div class='with-sidebar'><p>All of the page.</p></div>",
        "<body class=nav><p>All of the page.</p></body>",
        "<article><header>All of the page.</header></article>",
        "<div class='menus navy'>All of the page.</div>",
        "<p>All <a>of</a> <a>the</a> <a>page.</a></p>",
    ],
)
def test_content_that_resembles_boilerplate_stays(html):
    assert shown(html) == ["All of the page."]


@pytest.mark.parametrize("name", extract.IMAGE_ATTRIBUTES)
def test_every_image_attribute_is_asked(name):
    html = f"<img src='data:image/gif;base64,R0' {name}='a b.jpg#x' alt=' A\n cat '>"
    html = html.replace("a b", "a-b") if "srcset" in name else html
    html = html.replace("src='data:image/gif;base64,R0' ", "") if name == "src" else html
    (part,) = interleaved_parts(html, URL)
    assert part["url"].startswith("http://site.example/news/a") and "#" not in part["url"]
    assert part["alt"] == "A cat"


def test_the_first_usable_attribute_wins():
    assert shown("<img data-src=b.jpg src=a.jpg>") == ["<http://site.example/news/a.jpg>"]
    assert shown("<img data-src=b.jpg src='ftp://x/a.jpg'>") == ["<http://site.example/news/b.jpg>"]


@pytest.mark.parametrize(
    ("srcset", "largest"),
    [
        ("a.jpg 1x, b.jpg 2x", "b.jpg"),
        ("a.jpg 640w,b.jpg 320w", "a.jpg"),
        ("a.jpg", "a.jpg"),
        ("a.jpg, b.jpg 1.5x", "b.jpg"),
        ("w_300,h_200/a.jpg 300w, w_600,h_400/a.jpg 600w", "w_600,h_400/a.jpg"),
        ("data:image/png;base64,AA 9x, a.jpg 1x", "a.jpg"),
        (" , ", None),
        ("", None),
    ],
)
def test_srcset_gives_its_largest_candidate(srcset, largest):
    assert extract.largest_candidate(srcset) == largest


def test_a_picture_lends_its_source_to_an_image_without_address():
    html = "<picture><source srcset='a.webp 1x, b.webp 2x'><img alt=x></picture>"
    assert shown(html) == ["<http://site.example/news/b.webp>"]


def test_base_href_counts_and_a_repeated_image_is_kept_once():
    html = "<base href='/i/'><p>a<img src=x.png>b<img src=x.png#2>c<img src='http://[x'>d"
    assert shown(html) == ["a", "<http://site.example/i/x.png>", "bcd"]


@pytest.mark.parametrize(
    ("data", "charset"),
    [
        ("<p>café</p>".encode("latin-1"), "iso-8859-1"),
        ("<meta charset=windows-1251><p>café</p>".replace("café", "мир").encode("cp1251"), None),
        ("<p>café</p>".encode(), "no-such-charset"),
    ],
)
def test_bytes_are_decoded_as_the_page_says(data, charset):
    (part,) = interleaved_parts(data, URL, charset)
    assert part["text"] in ("café", "мир")


def test_prose_is_one_text_without_navigation_and_alt_texts():
    html = (
        "<body><nav><a>Home</a></nav><main><h1>Title</h1><p>A <b>x</b> → <b>y</b> and "
        "<i>他</i>的<i>猫</i>.</p><img alt=cat><p>End.</p></main><footer>Legal</footer>"
    )
    assert [p["text"] for p in prose_parts(html)] == ["Title\n\nA x → y and 他的猫.\n\nEnd."]
    assert prose_parts("<img alt=cat>") == []


@pytest.mark.parametrize(
    ("html", "licence"),
    [
        ("<link rel=license href='/by/'>", "http://site.example/by/"),
        ("<p><a rel='nofollow license' href='http://cc.example/by'>", "http://cc.example/by"),
        ("<figure><a rel=license href='/photo'>", None),
        ("<meta name=DCTERMS.rights content=' CC BY 4.0 '>", "CC BY 4.0"),
        ("<p>no word", None),
    ],
)
def test_page_licence(html, licence):
    assert page_licence(html, URL) == licence


def test_each_page_becomes_a_document_or_a_drop_with_its_reason():
    whole = b"<link rel=license href=/by><p>Text.</p><img src=a.jpg alt=A>"
    pages = [
        page(whole),
        page(b"<p>Text."),
        page(b"<img src=a.jpg>"),
        page(b"", status=500),
        page(b"<div>" * 600 + b"x"),
        Page("", 77, error="broken"),
    ]
    documents, drops = extract_pages(pages, "interleaved", "crawl", "a.warc")
    (row,) = documents.to_pylist()
    parts = [schema.text_part("Text."), schema.image_part("http://site.example/news/a.jpg", "A")]
    assert row["parts"] == parts and row["licence"] == "http://site.example/by"
    assert row["provenance"] == {"file": "a.warc", "position": 0}
    assert documents.schema == schema.DOCUMENT and drops.schema == schema.DROP
    assert [(d["reason"], d["kind"], d["detail"]) for d in drops.to_pylist()] == [
        ("no_images", "dropped", None),
        ("no_text", "dropped", None),
        ("http_status", "dropped", "500"),
        ("page_too_complex", "dropped", "512 levels"),
        ("bad_record", "error", "broken"),
    ]
    assert drops["id"].to_pylist()[0] == schema.digest("crawl", URL)
    prose, _ = extract_pages(pages, "prose", "crawl", "a.warc")
    assert [d["parts"][0]["text"] for d in prose.to_pylist()] == ["Text.", "Text."]


def test_an_exception_of_the_parser_is_a_counted_error(monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("lost")

    monkeypatch.setattr(extract, "parse_html", fail)
    _, drops = extract_pages([page(b"<p>x")], "prose", "s", "f")
    assert drops["reason"].to_pylist() == ["extract_failed"]
    assert drops["detail"].to_pylist() == ["RuntimeError: lost"]


def test_too_many_elements_are_refused(monkeypatch):
    monkeypatch.setattr(extract, "MAX_ELEMENTS", 10)
    with pytest.raises(extract.PageTooComplexError, match="elements"):
        interleaved_parts("<p>x" * 20, URL)


TAGS = (
    "<p>",
    "<table>",
    "<td>",
    "<b>",
    "<img src=a>",
    "</p>",
    "&#xD800;",
    "<pre>",
    "<svg>",
    "<!--",
)
MARKUP = st.lists(st.sampled_from(TAGS) | st.text(max_size=5), max_size=30).map(
    lambda pieces: " ".join(pieces).encode()
)


@settings(deadline=None, max_examples=150)
@given(body=st.binary(max_size=300) | MARKUP, charset=st.none() | st.text(max_size=8))
@pytest.mark.parametrize("mode", ["interleaved", "prose"])
def test_no_bytes_raise_and_every_page_is_accounted_for(mode, body, charset):
    documents, drops = extract_pages([page(body, charset=charset)], mode, "s", "f")
    assert documents.num_rows + drops.num_rows == 1
    assert "extract_failed" not in drops["reason"].to_pylist()


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=60), place=st.integers(0, 1200))
def test_no_damage_to_a_warc_raises(data, place):
    archive = warc(BODIES)
    list(extract.read_warc(io.BytesIO(archive[:place] + data + archive[place:])))


def test_a_manual_page_keeps_its_story_and_loses_its_furniture():
    path = next(SAMPLE.glob("de.*/gimp/gimp-tool-colorize.html"))
    before, image, after = shown(path.read_bytes(), "http://de.example/gimp/x.html")
    assert before.startswith("8.56. Colorize\n\nThe Colorize filter renders")
    assert before.endswith("Colorize filter dialog") and "Colors → Colorize" in before
    assert image == "<http://de.example/gimp/images/menus/colors/colorize-dialog.png>"
    assert after.startswith("Presets") and after.endswith("„Colors Common Features“.")
