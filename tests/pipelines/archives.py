"""Archives that tests read; the same bytes every time."""

import io
from collections.abc import Iterator, Sequence

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

BODIES = [b"<p>zero</p>", b"<p>one</p>", b"<p>two</p>"]


def warc(bodies: Sequence[bytes], *, gz: bool = True, encoding: str | None = None) -> bytes:
    """A WARC of one response a body, at http://site.example/0 and on."""
    stream, writer = _begin(gz)
    headers = [("Content-Type", "text/html; charset=utf-8")]
    headers += [("Content-Encoding", encoding)] if encoding else []
    status = StatusAndHeaders("200 OK", headers, protocol="HTTP/1.1")
    for url, about in _names(len(bodies)):
        payload = io.BytesIO(bodies[int(url[-1])])
        record = writer.create_warc_record(
            url, "response", payload, http_headers=status, warc_headers_dict=about
        )
        writer.write_record(record)
    return stream.getvalue()


def wet(texts: Sequence[str], *, gz: bool = True) -> bytes:
    """A WET file: the text of a page a record, as Common Crawl writes it."""
    stream, writer = _begin(gz)
    for url, about in _names(len(texts)):
        payload = io.BytesIO(texts[int(url[-1])].encode())
        record = writer.create_warc_record(
            url, "conversion", payload, warc_content_type="text/plain", warc_headers_dict=about
        )
        writer.write_record(record)
    return stream.getvalue()


def _begin(gz: bool) -> tuple[io.BytesIO, WARCWriter]:
    stream = io.BytesIO()
    writer = WARCWriter(stream, gzip=gz)
    record = writer.create_warcinfo_record("x.warc", {"software": "test"})
    for name, value in _about("info").items():
        record.rec_headers.replace_header(name, value)
    writer.write_record(record)
    return stream, writer


def _names(count: int) -> Iterator[tuple[str, dict[str, str]]]:
    for number in range(count):
        yield f"http://site.example/{number}", _about(str(number))


def _about(name: str) -> dict[str, str]:
    return {"WARC-Record-ID": f"<urn:test:{name}>", "WARC-Date": "2024-01-01T00:00:00Z"}
