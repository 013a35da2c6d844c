"""Opens a page in headless Chromium and tells what a user of it would have noticed."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.tools import lacking

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    # What the browser itself would like to fetch does not leave the machine.
    "--host-resolver-rules=MAP * ~NOTFOUND",
)
CONSOLE = re.compile(r"CONSOLE[:(]\d+\)?\] (.*)")
NOT_A_PAGE = "not an origin"  # the initiator of the browser's own requests


@dataclass(frozen=True)
class Visit:
    """What one visit came to."""

    console: list[str]  # messages, violations of the content security policy among them
    requests: list[str]  # URLs that the page asked for, other than itself and data: URLs
    picture: Path

    @property
    def blank(self) -> bool:
        """Whether there is next to nothing to see."""
        with Image.open(self.picture) as image:
            colours = image.convert("RGB").resize((160, 300)).getcolors(160 * 300)
        return len(colours or ()) < 20


def chromium() -> str:
    """The browser; without one the test is skipped, or fails where tools are required."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        lacking("no chromium on PATH: apt-get install chromium")
    return found


def visit(page: Path, folder: Path, size: tuple[int, int] = (1280, 2400)) -> Visit:
    """Opens the file `page`; `folder` takes the browser's profile, log and screenshot."""
    picture, log = folder / "screenshot.png", folder / "net.json"
    command = [
        chromium(),
        *FLAGS,
        f"--user-data-dir={folder / 'profile'}",
        f"--log-net-log={log}",
        f"--screenshot={picture}",
        f"--window-size={size[0]},{size[1]}",
        page.resolve().as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return Visit(CONSOLE.findall(done.stderr), _requests(log), picture)


def _requests(log: Path) -> list[str]:
    """URLs of requests that a page, not the browser, initiated."""
    found = json.loads(log.read_text())
    start = found["constants"]["logEventTypes"]["URL_REQUEST_START_JOB"]
    params = [
        event["params"]
        for event in found["events"]
        if event["type"] == start and "url" in event.get("params", {})
    ]
    return [
        p["url"]
        for p in params
        if p.get("initiator") != NOT_A_PAGE and not p["url"].startswith(("data:", "file:"))
    ]
