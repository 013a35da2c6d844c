from hypothesis import given
from hypothesis import strategies as st

from shards.report.formats import safe_link


@given(st.text() | st.sampled_from(["http://[", "HTTPS://a.example/", " javascript:x", "http:x"]))
def test_only_web_addresses_are_links(url: str) -> None:
    found = safe_link(url)
    assert found is None or found.lower().startswith(("http://", "https://"))
