import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.reading.encoding import decode

JAPANESE = "これは日本語のページです。東京は今日も晴れています。"
CHINESE = "这是一个中文网页。北京今天的天气很好，我们去公园。"
FRENCH = "Le café est très bon à l’été, naïveté déjà vu."
RUSSIAN = "Это русский текст, погода хорошая сегодня."
PAGES = [
    (JAPANESE, "shift_jis"),
    (JAPANESE, "euc-jp"),
    (JAPANESE, "iso-2022-jp"),
    (JAPANESE, "utf-8"),
    (CHINESE, "gb18030"),
    (FRENCH, "windows-1252"),
    (FRENCH, "utf-8"),
    (RUSSIAN, "windows-1251"),
    (RUSSIAN, "koi8-r"),
]


def page(text: str, meta: str | None = None) -> str:
    head = f"<meta charset='{meta}'>" if meta else "<title>Page</title>"
    return f"<html><head>{head}</head><body><p>{text * 4}</p></body></html>"


@pytest.mark.parametrize(("text", "encoding"), PAGES)
def test_what_the_header_says(text, encoding):
    assert decode(page(text).encode(encoding), encoding) == page(text)


@pytest.mark.parametrize(("text", "encoding"), PAGES)
def test_what_the_page_says(text, encoding):
    html = page(text, encoding)
    assert decode(html.encode(encoding), None) == html


@pytest.mark.parametrize("declared", [None, "utf-8", "iso-8859-1", "utf-16", "no-such-charset"])
@pytest.mark.parametrize(("text", "encoding"), PAGES)
def test_nothing_or_something_wrong_is_said(text, encoding, declared):
    assert decode(page(text).encode(encoding), declared) == page(text)


@pytest.mark.parametrize(("text", "encoding"), PAGES)
def test_the_page_is_right_and_the_header_wrong(text, encoding):
    html = page(text, encoding)
    for wrong in ("utf-8", "iso-8859-1"):
        assert decode(html.encode(encoding), wrong) == html


@pytest.mark.parametrize("declared", [None, "utf-8", "utf-16", "windows-1252"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (b"", "utf-16-le"),
        (b"", "utf-16-be"),
        (b"\xff\xfe", "utf-16-le"),
        (b"\xfe\xff", "utf-16-be"),
        (b"\xef\xbb\xbf", "utf-8"),
    ],
)
@pytest.mark.parametrize("text", [FRENCH, JAPANESE, CHINESE])
def test_utf_16_and_byte_order_marks(text, mark, encoding, declared):
    assert decode(mark + page(text).encode(encoding), declared) == page(text)


@pytest.mark.parametrize(("text", "encoding"), PAGES[:1] + PAGES[3:6])
def test_a_slip_or_a_cut_end_does_not_change_the_encoding(text, encoding):
    data = page(text).encode(encoding)
    slip = data.replace(b"</p>", b"\x81\xff</p>")
    assert decode(slip, encoding).startswith(page(text).partition("</p>")[0])
    middle = data.index(b"</p>") - 1
    assert text * 3 in decode(data[:middle], encoding)


@given(data=st.binary(max_size=200), charset=st.none() | st.text(max_size=12))
def test_no_bytes_raise(data, charset):
    decode(data, charset).encode()
