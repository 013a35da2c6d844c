from pathlib import Path

import pytest

from pipelines.reading import extract, html
from pipelines.reading.extract import interleaved_parts, page_licence, prose_parts, read_page

URL = "http://site.example/news/page.html"
SAMPLE = Path(__file__).parents[2] / "data" / "sample" / "www"


def shown(html: str | bytes, url: str = URL) -> list[str]:
    """The parts as short strings: texts as they are, images as <URL>."""
    return [f"<{p['url']}>" if p["url"] else p["text"] for p in interleaved_parts(html, url)]


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


def test_too_many_elements_are_refused(monkeypatch):
    monkeypatch.setattr(html, "MAX_ELEMENTS", 10)
    with pytest.raises(html.PageTooComplexError, match="elements"):
        interleaved_parts("<p>x" * 20, URL)


def test_a_manual_page_keeps_its_story_and_loses_its_furniture():
    path = next(SAMPLE.glob("de.*/gimp/gimp-tool-colorize.html"))
    before, image, after = shown(path.read_bytes(), "http://de.example/gimp/x.html")
    assert before.startswith("8.56. Colorize\n\nThe Colorize filter renders")
    assert before.endswith("Colorize filter dialog") and "Colors → Colorize" in before
    assert image == "<http://de.example/gimp/images/menus/colors/colorize-dialog.png>"
    assert after.startswith("Presets") and after.endswith("„Colors Common Features“.")


@pytest.mark.parametrize("reader", ["interleaved", "mixwright", "resiliparse"])
def test_a_page_is_read_with_the_licence_that_it_declares(reader):
    body = b"<link rel=license href=/by><p>All of the caf\xe9.</p>"
    parts, licence = read_page(body, URL, "iso-8859-1", reader)
    assert [part["text"] for part in parts] == ["All of the café."]
    assert licence == "http://site.example/by"
