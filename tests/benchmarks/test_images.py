"""benchmarks/images.py: the web that both sides are given, and how what they took is compared."""

import http.client
import importlib
import json
import time
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image


@pytest.fixture
def images(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return importlib.import_module("images")


def test_a_list_has_the_stated_share_of_each_kind(images: ModuleType):
    web = images.paths(5000, images.WEB)
    kinds = Counter(path.split("/")[1] for path in web)
    for kind, percent in images.WEB.items():
        assert kinds[kind] / 50 == pytest.approx(percent, abs=percent / 2)
    assert web[:100] == images.paths(100, images.WEB)
    assert "drip" not in {path.split("/")[1] for path in images.paths(5000, images.PROMPT)}


def test_the_server_does_what_a_path_says(images: ModuleType, tmp_path: Path):
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8), "red").save(tmp_path / "pictures" / "a.jpg")
    picture = (tmp_path / "pictures" / "a.jpg").read_bytes()
    before = time.monotonic()
    with images.serving(tmp_path / "pictures") as port:

        def get(path: str) -> tuple[int, bytes, http.client.HTTPMessage]:
            connection = http.client.HTTPConnection(images.HOSTS[-1], port, timeout=10)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read(), answer.headers

        assert get("/ok/1.jpg")[:2] == (200, picture + b"/ok/1.jpg")
        assert get("/missing/1.jpg")[0] == 404
        assert get("/noai/1.jpg")[2]["X-Robots-Tag"] == "noai"
        assert b"Disallow: /private/" in get("/robots.txt")[1]
        status, _, headers = get("/busy/1.jpg")
        assert (status, headers["Retry-After"]) == (503, "1")
        told = json.loads(get("/-/asked")[1])
    assert before < told["begun"] < time.monotonic()
    assert told["asked"] == {"ok": 1, "missing": 1, "noai": 1, "robots.txt": 1, "busy": 1}


def test_ratios_are_above_one_where_we_are_better(images: ModuleType):
    def taken(seconds: float, pictures: int) -> list[object]:
        stored = tuple(f"http://h/ok/{k}.jpg" for k in range(pictures))
        return [images.Taken(seconds, seconds, stored, ("a",), {"private": 0}, seconds / 2)] * 2

    start = {"mixwright": taken(2.0, 1), "img2dataset": taken(5.0, 1)}
    prompt = {"mixwright": taken(4.0, 100), "img2dataset": taken(9.0, 100)}
    web = {"mixwright": taken(5.0, 100), "img2dataset": taken(20.0, 100)}
    slow = {"mixwright": taken(7.0, 7), "img2dataset": taken(65.0, 8)}
    found = images.report(start, prompt, web, slow)
    assert found["download_start_ratio"] == found["download_idle_ratio"] == pytest.approx(2.5)
    assert found["download_images_ratio"] == pytest.approx(5.0)
    assert found["download_prompt_images_ratio"] == pytest.approx(2.0)
    assert found["download_prompt_cpu_ratio"] == pytest.approx(2.0)
    assert (found["mixwright_drip_seconds"], found["img2dataset_drip_seconds"]) == (5.0, 60.0)
    assert found["mixwright_same_tars"] and found["mixwright_disallowed_fetched"] == 0
    assert "download_images_ratio" not in images.report(start, prompt, {}, slow)


def test_storing_is_timed_beside_the_resizer(
    images: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "WIDTHS", (64, 512))
    found = images.compare_storing(1)
    ours, theirs = (
        sum(found[f"{name}_store_cpu_ms_{width}"] for width in (64, 512))
        for name in ("mixwright", "img2dataset")
    )
    assert found["store_cpu_ratio"] == pytest.approx(theirs / ours)
    assert all(value > 0 for value in found.values())
