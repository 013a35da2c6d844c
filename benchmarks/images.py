"""Pictures from URLs to the image store, beside img2dataset.

Download: `benchmarks/images_server.py` serves pictures with the latency, errors and refusals of the
web. Both sides are given the same URLs, the same number of requests under way, and the same resize,
and run as their users run them: one command, in an environment of its own that pip makes. There
are two lists, the web's, of whose URLs one in a hundred drips for a minute, and a prompt one, in
which none does. Images a second are counted after start-up, which is the time of a list of eight
URLs: enough for all processes to be started. Beside it stands the time until the first request.
What a single dripping URL costs is the time of those eight with one in the place of the last, less
that without.

Storing: the CPU time of a picture from its bytes to those that are stored, in one process. Ours
decodes, measures and hashes it for the index, and has img2dataset's resizer make the JPEG; beside
it stands that resizer alone. Its ratio is below 1 by what the measures take.

Then, unless it is to be quick, CLIP scores beside a bare loop, by `benchmarks/images_clip.py`.

    make bench-images                                  # about half an hour
    make bench-images ARGS=--quick                     # one minute, once both sides are installed

The last line is one JSON object; its ratios are above 1 where this project is better.
"""

import argparse
import io
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import checkout  # noqa: F401  imports of the project come from here
import corpus
import peers
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml
from images_server import HOSTS, share
from PIL import Image

IMG2DATASET = ["img2dataset==1.47.0", "setuptools<81"]  # which it imports, and newer ones lack
URLS, QUICK = 4000, 400
FEW = 8  # URLs: start-up and nearly nothing else
PROCESSES, THREADS = 2, 32
PATIENCE = 5.0  # seconds: ours for a URL, theirs for each read
DRIP, QUICK_DRIP = 60.0, 12.0  # seconds that a body takes of which a byte comes now and then
SIDE, QUALITY = 378, 95
# Of a list of URLs, how many in a hundred are of each kind; the others are plain pictures.
PROMPT = {"missing": 5, "busy": 2, "noai": 4, "private": 4}
WEB = {**PROMPT, "drip": 1}
PICTURES, TILES = 48, 24
WIDTHS = (320, 512, 640, 1024)  # pixels, of the pictures whose storing is timed


def main() -> None:
    """Compare, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK} URLs, of which none drips, each side once"
    )
    parser.add_argument("--urls", type=int, help=f"instead of {URLS}")
    options = parser.parse_args()
    n = options.urls or (QUICK if options.quick else URLS)
    repeats, drip = (1, QUICK_DRIP) if options.quick else (3, DRIP)
    figures = compare_downloads(n, repeats, drip, with_web=not options.quick)
    figures |= compare_storing(4 * repeats)
    if not options.quick:
        import images_clip  # whose imports our side of the download does without

        figures |= images_clip.compare(images_clip.PAIRS)
    print(json.dumps(figures))


# --- download


@dataclass(frozen=True)
class Taken:
    """What a command took, and what it stored."""

    seconds: float
    cpu: float  # seconds, of all its processes
    stored: tuple[str, ...]  # the URLs of pictures
    tars: tuple[str, ...]  # sha256 of each
    asked: Mapping[str, int]  # by the server's count
    idle: float  # seconds until the first request

    def of_kind(self, kind: str) -> int:
        """How many pictures of a kind were stored."""
        return sum(f"/{kind}/" in url for url in self.stored)


Side = Callable[[Path, Sequence[str], int], None]  # downloads URLs from a port into a folder


def compare_downloads(n: int, repeats: int, drip: float, *, with_web: bool) -> dict[str, Any]:
    """Both sides on lists of `FEW` URLs, of `n`, and of `FEW` one of which drips."""
    peers.own()
    peers.environment("img2dataset", IMG2DATASET)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_pictures(folder / "pictures")
        sides = {"mixwright": ours, "img2dataset": theirs}
        few = [f"/ok/{k}.jpg" for k in range(FEW)]
        start = both(folder, sides, few, repeats)
        prompt = both(folder, sides, paths(n, PROMPT), repeats)
        web = both(folder, sides, paths(n, WEB), repeats, drip) if with_web else {}
        slow = both(folder, sides, [*few[:-1], "/drip/0.jpg"], 1, drip)
    return report(start, prompt, web, slow)


def make_pictures(folder: Path) -> None:
    """JPEGs of 500 to 1,300 pixels: sheets of the sample's pictures."""
    folder.mkdir()
    for number in range(PICTURES):
        side = 500 + int(800 * share("side", str(number)))
        (folder / f"{number:02d}.jpg").write_bytes(sheet(number, side))


def sheet(number: int, side: int) -> bytes:
    """A JPEG of `side` x 3/4 `side` pixels."""
    found = sorted((corpus.SAMPLE / "www/pictures.mixwright.example/noto").glob("*.png"))
    whole = Image.new("RGB", (side, side * 3 // 4), "white")
    for tile in range(TILES):
        with Image.open(found[(number * TILES + tile) % len(found)]) as image:
            small = image.convert("RGBA").resize((side // 6, side * 3 // 16))
        whole.paste(small, (tile % 6 * (side // 6), tile // 6 * (side * 3 // 16)), small)
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=90)
    return file.getvalue()


def paths(n: int, percents: Mapping[str, int]) -> list[str]:
    """The first `n` paths of a list whose mixture of kinds is the same over its length."""
    bounds = [kind for kind, percent in percents.items() for _ in range(percent)]
    kinds = [*bounds, *["ok"] * (100 - len(bounds))]
    return [f"/{kinds[int(share('kind', str(k)) * 100)]}/{k}.jpg" for k in range(n)]


def both(
    folder: Path, sides: Mapping[str, Side], asked: Sequence[str], repeats: int, drip: float = DRIP
) -> dict[str, list[Taken]]:
    """What each side takes, in turns, so that the machine's moods are shared."""
    taken: dict[str, list[Taken]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            taken[name].append(measured(folder, side, asked, drip))
            last = taken[name][-1]
            print(f"{name:12} {len(asked):5} URLs {last.seconds:7.1f} s {last.cpu:7.1f} CPU s "
                  f"{len(last.stored):5} images", file=sys.stderr)  # fmt: skip
    return taken


def measured(folder: Path, side: Side, asked: Sequence[str], drip: float = DRIP) -> Taken:
    """One run of a side against a server that knows nobody."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    with serving(folder / "pictures", drip) as port:
        urls = [f"http://{HOSTS[k % len(HOSTS)]}:{port}{path}" for k, path in enumerate(asked)]
        before, started = cpu_seconds(), time.monotonic()
        side(out, urls, port)
        seconds, cpu = time.monotonic() - started, cpu_seconds() - before
        with urlopen(f"http://{HOSTS[0]}:{port}/-/asked") as answer:
            told = json.load(answer)
    tars = tuple(map(digest, sorted(out.rglob("*.tar"))))
    return Taken(seconds, cpu, stored(out), tars, told["asked"], told["begun"] - started)


def cpu_seconds() -> float:
    """Of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def stored(out: Path) -> tuple[str, ...]:
    """The URLs of what a side says it has stored, by its own tables."""
    urls: list[str] = []
    for path in out.rglob("*.parquet"):
        if path.parent.name == "index":
            table = pq.read_table(path, columns=["url", "tar"])
            urls += table.filter(table["tar"].is_valid())["url"].to_pylist()
        elif path.parent.name == "shards":
            table = pq.read_table(path, columns=["url", "status"])
            urls += table.filter(pc.equal(table["status"], "success"))["url"].to_pylist()
    return tuple(urls)


def digest(path: Path) -> str:
    """The sha256 of a file."""
    return sha256(path.read_bytes()).hexdigest()


@cache
def free_port() -> int:
    """The same for all runs: the URLs, and what is ordered or named by them, depend on it."""
    with socket.socket() as unused:
        unused.bind((HOSTS[0], 0))
        port: int = unused.getsockname()[1]
        return port


@contextmanager
def serving(pictures: Path, drip: float = DRIP) -> Iterator[int]:
    """The port of a fresh server."""
    program = Path(__file__).parent / "images_server.py"
    command = [sys.executable, *map(str, (program, pictures, drip, free_port()))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin and server.stdout
        yield int(server.stdout.readline())
        server.stdin.close()


def run(command: Sequence[Any], folder: Path, **environment: str) -> None:
    """Run a command to its end, silent if it succeeds."""
    done = subprocess.run(
        list(map(str, command)),
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{command[0]} failed:\n{done.stdout}\n{done.stderr}")


def ours(out: Path, urls: Sequence[str], port: int) -> None:
    """`mixwright run` of a recipe that reads and downloads."""
    table = pa.table({"url": urls, "caption": ["a picture"] * len(urls)})
    pq.write_table(table, out / "urls.parquet")
    recipe = {
        "name": "bench",
        "out": str(out / "run"),
        "download": {
            "connect_to": {host: f"{host}:{port}" for host in HOSTS},
            "concurrency": THREADS,
            "partitions": PROCESSES,
            "per_host_concurrency": PROCESSES * THREADS,
            "per_host_rate": 1e6,
            "total_seconds": PATIENCE,
            "resize": {"shorter_side": SIDE, "quality": QUALITY},
        },
        "corpora": {
            "captions": {
                "read": {
                    "files": [str(out / "urls.parquet")],
                    "rows_per_part": max(1, len(urls) // (2 * PROCESSES)),
                },
                "steps": ["download"],
            }
        },
        "mix": {"weights": {"captions": 1}},
        "runner": {"workers": PROCESSES},
    }
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [peers.own().parent / "mixwright", "run", "recipe.yaml"]
    run([*command, "--only", "captions/download"], out)


def theirs(out: Path, urls: Sequence[str], port: int) -> None:
    """img2dataset's command, without the services that it would tell of the run."""
    python = peers.environment("img2dataset", IMG2DATASET)
    (out / "urls.txt").write_text("\n".join(urls) + "\n")
    options = {
        "url_list": out / "urls.txt",
        "output_folder": out / "shards",
        "output_format": "webdataset",
        "processes_count": PROCESSES,
        "thread_count": THREADS,
        "image_size": SIDE,
        "resize_mode": "keep_ratio",
        "resize_only_if_bigger": True,
        "encode_quality": QUALITY,
        "number_sample_per_shard": max(1, len(urls) // (2 * PROCESSES)),
        "retries": 2,
        "timeout": int(PATIENCE),
        "user_agent_token": "mixwright",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    run([python.parent / "img2dataset", *flags], out, NO_ALBUMENTATIONS_UPDATE="1")


Runs = Mapping[str, list[Taken]]  # by side


def report(start: Runs, prompt: Runs, web: Runs, slow: Runs) -> dict[str, Any]:
    """Print both sides, and answer with the figures."""
    found: dict[str, Any] = {}
    for name in prompt:
        begin, begin_cpu = median(start[name], "seconds"), median(start[name], "cpu")
        taken = [*prompt[name], *web.get(name, [])]
        figures = {
            "idle_seconds": median(start[name], "idle"),
            "start_seconds": begin,
            "start_cpu_seconds": begin_cpu,
            "prompt_images_a_second": rate(prompt[name], begin),
            "prompt_cpu_ms_an_image": 1000 / rate(prompt[name], begin_cpu, "cpu"),
            "images": len(prompt[name][0].stored),
            "disallowed_fetched": max(each.asked.get("private", 0) for each in taken),
            "noai_stored": max(each.of_kind("noai") for each in taken),
            "drip_seconds": slow[name][0].seconds - begin,
        }
        if web:
            figures["images_a_second"] = rate(web[name], begin)
            figures["same_tars"] = len({each.tars for each in prompt[name]}) == 1
        print(f"\n{name}")
        for key, value in figures.items():
            print(f"  {key:22} {value:.2f}")
        found |= {f"{name}_{key}": value for key, value in figures.items()}
    if web:
        found["download_images_ratio"] = ratio(found, "images_a_second", 1)
    return found | {
        "download_prompt_images_ratio": ratio(found, "prompt_images_a_second", 1),
        "download_prompt_cpu_ratio": ratio(found, "prompt_cpu_ms_an_image", -1),
        "download_idle_ratio": ratio(found, "idle_seconds", -1),
        "download_start_ratio": ratio(found, "start_seconds", -1),
        "download_start_cpu_ratio": ratio(found, "start_cpu_seconds", -1),
    }


def median(taken: Sequence[Taken], figure: str) -> float:
    """Of some runs."""
    return float(statistics.median(getattr(each, figure) for each in taken))


def rate(taken: Sequence[Taken], begin: float, figure: str = "seconds") -> float:
    """Images that are stored in a second after the first `begin` ones."""
    rates = [len(each.stored) / max(getattr(each, figure) - begin, 1e-3) for each in taken]
    return float(statistics.median(rates))


def ratio(found: Mapping[str, float], figure: str, sign: int) -> float:
    """Ours by theirs, or the reverse where less is better."""
    return float((found[f"mixwright_{figure}"] / found[f"img2dataset_{figure}"]) ** sign)


# --- storing


def compare_storing(repeats: int) -> dict[str, float]:
    """CPU milliseconds of a picture of each of `WIDTHS`, and the ratio of all."""
    from shards.images import Resize, stored_image  # which our side loads for itself
    from shards.resizing import resizer

    resize, alone = Resize(SIDE, QUALITY), resizer(SIDE, QUALITY)
    sides: dict[str, Callable[[bytes], Any]] = {
        "mixwright": lambda body: stored_image(body, resize),
        "img2dataset": lambda body: alone(io.BytesIO(body)),
    }
    found, total = dict[str, float](), dict.fromkeys(sides, 0.0)
    for width in WIDTHS:
        bodies = [sheet(number, width) for number in range(PICTURES // 4)]
        for name, least in least_cpu(sides, bodies, repeats).items():
            found[f"{name}_store_cpu_ms_{width}"] = least / len(bodies) * 1000
            total[name] += least
    for key, value in found.items():
        print(f"{key:32} {value:.2f}")
    return found | {"store_cpu_ratio": total["img2dataset"] / total["mixwright"]}


def least_cpu(
    sides: Mapping[str, Callable[[bytes], Any]], bodies: Sequence[bytes], repeats: int
) -> dict[str, float]:
    """The least CPU seconds that each side takes for all of `bodies`, in turns."""
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, side in sides.items():
            started = time.process_time()
            for body in bodies:
                side(body)
            taken[name].append(time.process_time() - started)
    return {name: min(each) for name, each in taken.items()}


if __name__ == "__main__":
    main()
